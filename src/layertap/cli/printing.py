"""Prints the results of commands: as tables on a terminal, or as JSON."""

import json
import math
import sys
from typing import Any

import click

from layertap.cli.options import PARTIAL, WRONG

_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


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
        click.echo(json.dumps(_for_json(report), indent=2, allow_nan=False))
        return
    from rich.console import Console

    from layertap.core import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=tables.WIDTH)
    console.print(report)


def _for_json(data: Any) -> Any:
    """Replaces NaN and infinite numbers, which JSON lacks, by their names."""
    if isinstance(data, dict):
        return {name: _for_json(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_for_json(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return _NAMES.get(data, "NaN")
    return data
