"""A table of statistics, with one line for each value."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from layertap.core import tables, text
from layertap.results.statistics.moments import Statistics

_HEADINGS = (
    *("mean", "deviation", "minimum", "maximum", "zeros"),
    *("NaN", "infinite", "dead units"),
)


def table(statistics: Mapping[str, Statistics], made_by: Mapping[str, str]) -> Table:
    """Returns a table of statistics by address, with the makers of the values."""
    rows = tables.titled("Statistics")
    tables.add_columns(rows, "address", "made by", overflow="fold")
    tables.add_columns(rows, *_HEADINGS, justify="right", no_wrap=True)
    for name, known in statistics.items():
        names = (Text(text.printable(words)) for words in (name, made_by[name]))
        rows.add_row(*names, *cells(known).values())
    return rows


def cells(known: Statistics) -> dict[str, Text]:
    """Returns the cells of the statistics of one value, by heading."""
    total = known.total
    moments = (total.mean, total.deviation, total.minimum, total.maximum)
    shown = (
        *(Text(f"{number:.4g}") for number in moments),
        Text(_percent(total.share_of_zeros)),
        Text(f"{total.nan:,}", style="red" if total.nan else "dim"),
        Text(f"{total.inf:,}", style="red" if total.inf else "dim"),
        Text(
            f"{total.dead:,} of {total.units:,}",
            style="yellow" if total.dead else "dim",
        ),
    )
    return dict(zip(_HEADINGS, shown, strict=True))


def _percent(share: float) -> str:
    """Formats a share; few do not look like none, nor nearly all like all."""
    percent = f"{share:.1%}"
    if share and percent == "0.0%":
        return "<0.1%"
    return ">99.9%" if share < 1 and percent == "100.0%" else percent
