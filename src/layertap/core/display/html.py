"""Turns tables of `rich` into HTML. All that is shown is text, whatever it says."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from layertap.core.display.pictures import Picture
from layertap.core.text import counted, printable

if TYPE_CHECKING:
    import jinja2

# More rows than these are folded; more than those are left out.
_UNFOLDED, _MOST_ROWS = 20, 2_000
# The most characters shown of one text.
_LONGEST = 2_000

# Texts, each with its classes of style; or a picture.
Content = Sequence[tuple[str, str]] | Picture
# A name, and a text or pictures.
Fact = tuple[str, str | Text | Picture | list[Picture]]


def display(
    table: Table | None = None, heading: str = "", facts: Iterable[Fact] = ()
) -> str:
    """Returns a display of a heading, facts and a table, each of which may be missing.

    Example:
    >>> "&lt;b&gt;" in display(None, "<b>", [("rows", "3")])
    True
    """
    listed = [
        (
            name,
            [_content(part) for part in (fact if isinstance(fact, list) else [fact])],
        )
        for name, fact in facts
    ]
    page = _environment().get_template("display.html")
    shown = None if table is None else _rows(table)
    return page.render(heading=_content(heading), facts=listed, table=shown)


def _rows(table: Table) -> dict[str, Any]:
    """Returns the parts of a table, as the template needs them."""
    columns = [list(islice(column.cells, _MOST_ROWS)) for column in table.columns]
    places = [_place(column) for column in table.columns]
    headers = [_content(column.header) for column in table.columns]
    rows = [
        (
            _classes(row.style or "") + " lt-end" * row.end_section,
            list(zip(map(_content, cells), places, strict=True)),
        )
        for row, *cells in zip(table.rows, *columns, strict=False)
    ]
    return {
        "title": _content(table.title or ""),
        "foot": _content(table.caption or ""),
        "headers": list(zip(headers, places, strict=True)),
        "rows": rows,
        "unfolded": _UNFOLDED,
        "folded": _more(len(rows) - _UNFOLDED),
        "left_out": _more(table.row_count - len(rows)),
    }


def _more(count: int) -> str:
    return counted(count, "more row") if count > 0 else ""


def _place(column: Column) -> str:
    """Returns the classes of the cells of a column; pictures stand on the left."""
    pictures = any(isinstance(cell, Picture) for cell in column.cells)
    right = "lt-right" if column.justify == "right" and not pictures else ""
    return f"{right} lt-fold" if column.overflow == "fold" else right


def _content(shown: Any) -> Content:
    """Returns a cell of `rich` for the template; a string is text, not markup."""
    if isinstance(shown, Picture):
        return replace(shown, label=printable(shown.label))
    text = shown if isinstance(shown, Text) else Text(str(shown))
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + Text("…")
    base = _console().get_style(text.style)
    # Styles of spans, one over the other, are joined by `rich`.
    return [
        (printable(segment.text), _classes(base + segment.style))
        for segment in text.render(_console())
    ]


def _classes(style: str | Style) -> str:
    """Returns the classes of a style: its colour, bold, dim."""
    known = _console().get_style(style)
    names = [known.color.name if known.color else "", "bold" * bool(known.bold)]
    names.append("dim" * bool(known.dim))
    return " ".join(f"lt-{name}" for name in names if name)


@functools.cache
def _console() -> Console:
    return Console(force_jupyter=False)


@functools.cache
def _environment() -> "jinja2.Environment":
    # Imported for the first display only.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
