"""Shows what a call does: a live line, lines of a log, or calls of a function."""

import html
import importlib
import inspect
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self, TextIO

from rich import progress
from rich.console import Console
from rich.text import Text

from layertap.core import tables

# Receives how many rows are done, how many bytes were written and, if it accepts a
# third argument, the number of all rows, which is None if unknown.
OnProgress = Callable[[int, int], None] | Callable[[int, int, int | None], None]

# Seconds between two lines of a log about the same work, and two states of a display.
_EVERY, _OFTEN = 10, 0.2


class Progress:
    """Shows nothing; its subclasses show the work, and how many rows are done."""

    # One sentence on the rows that were kept and computed, if not all were computed.
    outcome = ""
    # Whether the last state stays on a terminal: rows that were saved do.
    _stays = True

    def status(
        self, title: str, total: int | None = None, rows: int | None = None
    ) -> None:
        """Shows some work, such as planning, and how many rows it has dealt with."""
        self._show(title, total, rows, 0)
        self._stays = False

    def report(self, title: str, total: int | None, rows: int, written: int) -> None:
        """Shows how many rows are done, and how many bytes were written."""
        self._show(title, total, rows, written)
        self._stays = True

    def _show(
        self, title: str, total: int | None, rows: int | None, written: int
    ) -> None:
        pass

    def say(self, line: str) -> None:
        """Shows a line that stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the display."""


Show = bool | OnProgress | Progress


def open_progress(show: Show | None) -> Progress:
    """Opens a display of the work.

    `show` is None for a live line on terminals and in notebooks only, or lines of text
    on terminals that can't change one. True adds lines where standard error is neither.
    A function is called in place of a display.
    """
    if isinstance(show, Progress):
        return show
    if callable(show):
        return _Function(show)
    stream = sys.stderr
    if show is False or stream is None:
        return Progress()
    console, terminal = Console(stderr=True), stream.isatty()
    # Rich shows nothing in a notebook without widgets.
    if console.is_jupyter:
        return _Notebook(stream)
    if terminal and console.is_interactive:
        return _Live(console)
    return _Lines(stream) if show or terminal else Progress()


@contextmanager
def show_progress(show: Show | None) -> Iterator[Progress]:
    """Opens a display for a call, and shows its outcome; an open one stays open."""
    if isinstance(show, Progress):
        yield show
        return
    with open_progress(show) as display:
        yield display
        if display.outcome:
            display.say(display.outcome)


class _Function(Progress):
    """Calls a function with the progress of a save."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        try:
            inspect.signature(function).bind(0, 0, None)
        except (TypeError, ValueError):
            self._with_total = False
        else:
            self._with_total = True

    def report(self, title: str, total: int | None, rows: int, written: int) -> None:
        self._function(rows, written, *([total] if self._with_total else []))


class _Live(Progress):
    """One line that changes: on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            _Rows(),
            progress.TextColumn("{task.fields[written]}"),
            _Time(),
            console=console,
            # What user code prints to a file or a pipe stays there.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._title: str | None = None
        self._task = progress.TaskID(0)

    def _show(
        self, title: str, total: int | None, rows: int | None, written: int
    ) -> None:
        size = f"{tables.size(written)} written" if written else ""
        fields: dict[str, Any] = {"written": size, "counted": rows is not None}
        if title != self._title:
            # Another task: each has a speed of its own.
            if self._title is not None:
                self._bar.remove_task(self._task)
            self._title = title
            self._task = self._bar.add_task(
                title, total=total, completed=rows or 0, **fields
            )
        self._bar.update(self._task, completed=rows or 0, **fields)

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.live.transient = not self._stays
        self._bar.stop()


class _Rows(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        if not task.fields["counted"]:
            return Text()
        return Text(_counts(task.total, task.completed, task.speed))


class _Time(progress.ProgressColumn):
    """The time that is left, or that has passed if the rest is unknown."""

    def __init__(self) -> None:
        super().__init__()
        self._left = progress.TimeRemainingColumn()
        self._passed = progress.TimeElapsedColumn()

    def render(self, task: progress.Task) -> Text:
        return (self._left if task.total else self._passed).render(task)


class _Lines(Progress):
    """Lines of text now and then: in a log."""

    _every: float = _EVERY

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._title: str | None = None
        self._first, self._begun, self._next = 0, 0.0, 0.0
        self._unsaid = ""

    def _show(
        self, title: str, total: int | None, rows: int | None, written: int
    ) -> None:
        now = time.monotonic()
        if title != self._title:
            self._title, self._first, self._begun = title, rows or 0, now
            self._next = now
        line = title
        if rows is not None:
            passed = max(now - self._begun, 1e-9)
            rate = (rows - self._first) / passed
            line += f": {_counts(total, rows, rate)}"
            if written:
                line += f", {tables.size(written)} written"
            if total and rate and rows < total:
                left = timedelta(seconds=round((total - rows) / rate))
                line += f", {left} left"
        if now < self._next:
            self._unsaid = line
            return
        self._next = now + self._every
        self._put(line)

    def _put(self, line: str) -> None:
        """Shows the state of the work."""
        self.say(line)

    def say(self, line: str) -> None:
        self._unsaid = ""
        # A log that can't be written is not worth the rows.
        with suppress(OSError, ValueError):
            print(f"layertap: {line}", file=self._stream, flush=True)

    def __exit__(self, *error: object) -> None:
        if self._unsaid:
            self._put(self._unsaid)


class _Notebook(_Lines):
    """One display that changes: a bar and the lines under it, in a notebook."""

    _every = _OFTEN

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._name, self._open = uuid.uuid4().hex, False
        self._bar, self._state = "", ""
        self._said: list[str] = []

    def _show(
        self, title: str, total: int | None, rows: int | None, written: int
    ) -> None:
        known = total and rows is not None
        self._bar = f'<progress value="{rows}" max="{total}"></progress> ' * bool(known)
        super()._show(title, total, rows, written)

    def _put(self, line: str) -> None:
        self._state, self._unsaid = line, ""
        self._display()

    def say(self, line: str) -> None:
        self._said.append(line)
        self._display()

    def _display(self) -> None:
        lines = [f"layertap: {self._state}"] * bool(self._state) + self._said
        shown = self._bar + "<br>".join(html.escape(line) for line in lines)
        data = {"text/plain": "\n".join(lines), "text/html": f"<div>{shown}</div>"}
        # A notebook that is gone is not worth the rows.
        with suppress(Exception):
            ipython = importlib.import_module("IPython.display")
            ipython.display(data, raw=True, display_id=self._name, update=self._open)
            self._open = True


def _counts(total: float | None, rows: float, rate: float | None) -> str:
    """Formats a number of rows: `600 of 1,500 rows, 120/s`."""
    of_all = "" if total is None else f" of {int(total):,}"
    return f"{int(rows):,}{of_all} rows" + (f", {rate:,.0f}/s" if rate else "")
