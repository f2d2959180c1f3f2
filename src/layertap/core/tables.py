"""Formats tables and sizes: for a terminal and as text; `display` is for notebooks."""

import io
import math
from collections.abc import Sequence
from typing import Any

from rich import box, filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layertap.errors import LayertapError

WIDTH = 118


class Tabular:
    """A record that prints as its table, wherever it is printed."""

    def table(self) -> Table:
        """Returns the table for `rich` to print."""
        raise NotImplementedError

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        return plain(self.table())

    def _repr_html_(self) -> str:
        from layertap.core.display import html

        try:
            return html.display(self.table())
        except LayertapError as error:
            return html.display(None, repr(self), [("error", Text(str(error), "red"))])


def titled(title: str, caption: str | Text = "") -> Table:
    """Returns a table without columns, with a title above and a caption below."""
    return Table(
        title=Text(title),
        title_justify="left",
        caption=Text(caption) if isinstance(caption, str) else caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def add_columns(table: Table, *headings: str, **settings: Any) -> None:
    """Adds columns of the same settings to a table."""
    for heading in headings:
        table.add_column(heading, **settings)


def plain(renderable: Any) -> str:
    """Returns the output of `rich` as text without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
    console.print(renderable)
    return console.export_text().rstrip("\n")


def size(count: float | None) -> str:
    """Formats a number of bytes: `40.7 MB`, or `?` for None."""
    return "?" if count is None else filesize.decimal(int(count))


def shape(sizes: Sequence[int | None]) -> str:
    """Formats a shape: `(rows, 5, ?)`; None is the row axis or an unknown size."""
    rows = ["rows" if n is None else str(n) for n in sizes[:1]]
    return f"({', '.join([*rows, *('?' if n is None else str(n) for n in sizes[1:])])})"


def finite(data: Any) -> Any:
    """Returns data for JSON: None in the place of numbers that JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
