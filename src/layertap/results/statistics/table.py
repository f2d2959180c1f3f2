"""How the statistics of values are shown: a table, one line for each value."""

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from layertap.core import text
from layertap.results.statistics.moments import Statistics, Totals

_HEADINGS = (
    *("mean", "deviation", "minimum", "maximum", "zeros"),
    *("NaN", "infinite", "dead units"),
)


def table(statistics: Mapping[str, Statistics]) -> Table:
    """Returns a table of statistics for `rich` to print.

    Args:
        statistics: By address.
    """
    found = Table(
        title=Text("Statistics"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    found.add_column("address", overflow="fold")
    for heading in _HEADINGS:
        found.add_column(heading, justify="right", no_wrap=True)
    for name, known in statistics.items():
        found.add_row(Text(text.printable(name)), *_cells(known.total))
    return found


def _cells(total: Totals) -> list[Text]:
    moments = (total.mean, total.deviation, total.minimum, total.maximum)
    broken = ("red" if count else "dim" for count in (total.nan, total.inf))
    dead = f"{total.dead:,} of {total.units:,}"
    return [
        *(Text(f"{number:.4g}") for number in moments),
        Text(_percent(total.share_of_zeros)),
        *(
            Text(f"{count:,}", style=style)
            for count, style in zip((total.nan, total.inf), broken, strict=True)
        ),
        Text(dead, style="yellow" if total.dead else "dim"),
    ]


def _percent(share: float) -> str:
    """Returns a share; neither a few look like none, nor nearly all like all."""
    text = f"{share:.1%}"
    if share and text == "0.0%":
        return "<0.1%"
    return ">99.9%" if share < 1 and text == "100.0%" else text
