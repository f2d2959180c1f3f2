"""The display of saved values in a notebook: facts about the store, and a table."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from rich.text import Text

from layertap.core import tables, text
from layertap.core.address import IDS, OVERFLOWED
from layertap.core.display import html, values
from layertap.results.saved_rows import SavedRows
from layertap.results.statistics.moments import Statistics
from layertap.results.statistics.table import cells

# The columns of statistics that are shown.
_SHOWN = ("mean", "deviation", "NaN", "infinite", "dead units")
_IDS = 3
# The most files whose sizes are added, and bytes that are read to count overflows.
_MOST_FILES, _MOST_BYTES = 10_000, 2**24


def display(
    saved: SavedRows,
    size: Callable[[], int | None],
    statistics: Callable[[], Mapping[str, Statistics]],
) -> str:
    """Returns the display of a store. Damaged parts of it are left out."""
    known = _attempt(statistics) or {}
    by_address = {name: cells(of_value) for name, of_value in known.items()}
    more = {
        heading: {name: found[heading] for name, found in by_address.items()}
        for heading in _SHOWN
        if by_address
    }
    heading = f"layertap.Saved {saved.path}"
    return values.planned(saved, heading, [*_facts(saved, size)], more, saved)


def _facts(saved: SavedRows, size: Callable[[], int | None]) -> Iterator[html.Fact]:
    yield "rows", f"{saved.rows:,}"
    state = (
        Text("yes", "green")
        if saved.complete
        else Text("no: repeat the save", "yellow")
    )
    yield "complete", state
    reader = saved.reader
    files = len(reader.paths) * -(-saved.rows // reader.block_rows)
    on_disk = _attempt(size) if files <= _MOST_FILES else None
    if on_disk is not None:
        yield "on disk", tables.size(on_disk)
    yield from values.along("labels", saved.labels)
    if saved.class_names:
        count = len(saved.class_names)
        yield "classes", f"{count:,}: {text.listed(saved.class_names)}"
    yield from values.along("sample weights", saved.sample_weight)
    yield from _ids(saved)
    yield from _overflowed(saved)
    yield from values.named("skipped", saved.skipped, "yellow")
    if saved.not_used:
        yield "not used", text.listed(saved.not_used)


def _overflowed(saved: SavedRows) -> Iterator[html.Fact]:
    """Yields how many numbers became infinite, where they are quickly counted."""
    if saved.plan.narrowed:
        array = saved.reader.array(OVERFLOWED)
        if array.chunk_bytes is not None and array.nbytes <= _MOST_BYTES:
            counts = _attempt(lambda: saved.overflowed) or {}
            lines = {
                n: f"{count:,} numbers became infinite" for n, count in counts.items()
            }
            yield from values.named("overflowed", lines)


def _ids(saved: SavedRows) -> Iterator[html.Fact]:
    """Yields the kind of the ids; the first of them where they are at hand."""
    kind = saved.identity[IDS]
    if kind is None:
        return
    first: list[Any] = []
    if saved.reader.array(IDS).chunk_bytes is not None and saved.rows:
        found = _attempt(lambda: saved.ids_of(slice(0, _IDS)))
        first = [] if found is None else [*map(str, islice(found.tolist(), _IDS))]
        first += ["…"] * (saved.rows > _IDS and bool(first))
    yield "ids", f"{kind}{': ' if first else ''}{', '.join(first)}"


def _attempt(function: Callable[[], Any]) -> Any:
    """Returns the result of a function, or None where a store is damaged."""
    # A display shows what it can; reading the values reports damage.
    with suppress(Exception):
        return function()
    return None
