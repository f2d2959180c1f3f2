"""How far a save has come, for a person to watch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from layertap.core import tables


class Report(Protocol):
    """Takes how many rows are done, and how many bytes were written."""

    def __call__(self, rows: int, written: int) -> None:
        """Reports."""


Show = bool | Report


class _Rows(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f" of {int(task.total):,}"
        speed = f", {task.speed:,.0f}/s" if task.speed else ""
        return Text(f"{int(task.completed):,}{total} rows{speed}")


class _Written(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{tables.size(task.fields['written'])} written")


@contextmanager
def progress(
    title: str, total: int | None, done: int, show: Show | None
) -> Iterator[Report]:
    """Shows rows, rows per second, bytes written and time left while it lasts.

    Args:
        title: What is being done.
        total: All rows, or None if nobody knows.
        done: Rows that were done before.
        show: Whether to show anything; None for on a terminal only. Or a function
            to be called instead.

    Yields:
        What is to be called with the rows done and the bytes written.
    """
    if callable(show):
        yield show
        return
    if not (_on_terminal() if show is None else show):
        yield lambda rows, written: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        _Rows(),
        _Written(),
        TimeElapsedColumn() if total is None else TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, written=0)
        yield lambda rows, written: bar.update(task, completed=rows, written=written)


def _on_terminal() -> bool:
    return sys.stderr.isatty()
