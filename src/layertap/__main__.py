"""The command line, as `python -m layertap`."""

from layertap.cli import run

run()
