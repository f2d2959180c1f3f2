"""Prints the results of commands: as tables on a terminal, or as JSON."""

import json
import sys
from typing import Any

import click

from layertap.cli.options import PARTIAL, WRONG


def show_verdict(report: Any, as_json: bool) -> None:
    """Shows a report; ends the process if it is false."""
    show(report.to_json() if as_json else report)
    if not report:
        sys.exit(WRONG)
    if getattr(report, "missing", None):
        sys.exit(PARTIAL)


def show(report: Any) -> None:
    """Prints a table, or data as JSON."""
    if isinstance(report, dict):
        click.echo(json.dumps(report, indent=2))
        return
    from rich.console import Console

    from layertap.core import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=tables.WIDTH)
    console.print(report)
