"""The command line."""

from layertap.cli.commands import main, run
from layertap.cli.export_command import export

__all__ = ["export", "main", "run"]
