"""The command line."""

from layertap.cli.commands import main, run

__all__ = ["main", "run"]
