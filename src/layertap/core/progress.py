"""Progress of a save or a measurement: a bar on the terminal, or a function."""

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


class OnProgress(Protocol):
    """Receives how many rows are done, and how many bytes were written."""

    def __call__(self, rows: int, written: int) -> None:
        """Reports."""


Show = bool | OnProgress


class _Rows(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f" of {int(task.total):,}"
        speed = f", {task.speed:,.0f}/s" if task.speed else ""
        return Text(f"{int(task.completed):,}{total} rows{speed}")


class _Written(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{tables.size(task.fields['written'])} written")


@contextmanager
def show_progress(
    title: str, total: int | None, done: int, show: Show | None
) -> Iterator[OnProgress]:
    """Shows rows, rows per second, bytes written and time left.

    `total` is None if unknown, `done` counts the rows done before. `show` is None for a
    bar on terminals only; a function is called in place of a bar.
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
