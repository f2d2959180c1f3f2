"""The command line."""

from layertap.cli.commands import main, run
from layertap.cli.store_commands import clean, diff, export, report, show

__all__ = ["clean", "diff", "export", "main", "report", "run", "show"]
