"""How tables and sizes look: on a terminal, as text, in a notebook."""

import io
import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

WIDTH = 118


def titled(title: str, caption: Text) -> Table:
    """Returns a table without columns yet.

    Args:
        title: What stands above it.
        caption: What stands below it.
    """
    return Table(
        title=Text(title),
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def plain(renderable: Any) -> str:
    """Returns what `rich` would print, as text without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip("\n")


def html(renderable: Any) -> str:
    """Returns what `rich` would print, as HTML for a notebook."""
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
    console.print(renderable)
    return console.export_html(
        inline_styles=True,
        theme=DEFAULT_TERMINAL_THEME,
        code_format='<pre style="line-height:1.2;font-family:monospace">{code}</pre>',
    )


def size(count: float | None) -> str:
    """Returns a number of bytes for a person to read: `40.7 MB`, or `?` for None."""
    if count is None:
        return "?"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def finite(data: Any) -> Any:
    """Returns data for JSON, with None for numbers that JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
