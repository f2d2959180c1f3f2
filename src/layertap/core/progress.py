"""Progress of a save or a measurement: a bar on the terminal, or a function."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress
from rich.console import Console
from rich.text import Text

from layertap.core import tables

# Receives how many rows are done, and how many bytes were written.
OnProgress = Callable[[int, int], None]
Show = bool | OnProgress


class _Rows(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        total = "" if task.total is None else f" of {int(task.total):,}"
        speed = f", {task.speed:,.0f}/s" if task.speed else ""
        return Text(f"{int(task.completed):,}{total} rows{speed}")


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
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda rows, written: None
        return
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        _Rows(),
        progress.TextColumn("{task.fields[written]}"),
        progress.TimeRemainingColumn() if total else progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, written="")

        def update(rows: int, written: int) -> None:
            size = f"{tables.size(written)} written" if written else ""
            bar.update(task, completed=rows, written=size)

        yield update
