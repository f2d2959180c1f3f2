"""Writes the page of a store."""

import functools
import importlib.metadata
import math
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from layertap.core import tables, text
from layertap.core.display.pictures import Picture, maps
from layertap.errors import OptionError, StoreError
from layertap.pages import drawing
from layertap.pages.against import Counterpart, aligned, counterparts
from layertap.pages.facts import (
    MOST_BRANCHES,
    JoinFacts,
    PageFacts,
    ValueFacts,
    page_facts,
    state_of,
)
from layertap.pages.projection import Method, library
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved

# The most joins and values of a page.
_MOST_JOINS, _MOST_VALUES = 40, 400


def report(
    saved: Saved | str | os.PathLike[str],
    path: str | os.PathLike[str],
    against: Saved | str | os.PathLike[str] | None = None,
    *,
    projection: Method = "pca",
    overwrite: bool = False,
) -> Path:
    """Writes a page about saved values: one HTML file that opens in any browser.

    It shows what the store is; how large the share of each branch in a join is, and how
    similar branches are; and for each value a histogram, mean and deviation by unit,
    dead units, NaN, rows that stand out, and a projection of rows, coloured by label.
    It has no script and loads nothing. All of it is computed from the statistics of the
    store, and from up to 1,024 rows that are spread over it.

    Args:
        saved: Saved values, or the path or URL of their store.
        path: The file, such as `"page.html"`.
        against: Other saved values to compare with, value by value: those of another
            model, backend or moment. Values that both have are shown together.
        projection: How rows are placed in a plane: `"pca"`, by their two largest
            principal components; or `"umap"`, so that rows that are neighbours stay
            neighbours, which needs `pip install "layertap[umap]"`. Of rows with more
            than 64 numbers, UMAP gets the 64 largest principal components. It places
            the same rows the same each time, on one machine.
        overwrite: Whether to replace a file that exists.

    Returns:
        The path of the file.

    Raises:
        OptionError: If the file exists, or there is no such projection.
        BackendMissingError: If UMAP is wanted, and not installed.
        StoreError: If the store can't be read, or the file not be written.

    Example:
    ```python
    layertap.report(saved, "page.html")
    ```
    """
    saved = open_saved(saved)
    other = None if against is None else open_saved(against)
    target = _checked(path, [one.path for one in (saved, other) if one], overwrite)
    if projection not in get_args(Method):
        raise OptionError(
            f'`projection` is invalid. Expected "pca" or "umap". Received '
            f"{projection!r}."
        )
    if projection == "umap":
        library()
    page = page_facts(saved, projection)
    content = _template().render(**_shown(page, other))
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(content, "utf-8")
        new.replace(target)
    except OSError as error:
        raise StoreError(
            f"{target} could not be written: {error.strerror}. Pass another path."
        ) from error
    finally:
        with suppress(OSError):
            new.unlink()
    return target


def _checked(path: Any, stores: Sequence[str], overwrite: bool) -> Path:
    """Returns the path of a page; raises OptionError if it can't be one."""
    if not isinstance(path, str | os.PathLike) or not _is_name(os.fspath(path)):
        raise OptionError(
            f"The path of the page is invalid. Expected a file, such as page.html. "
            f"Received {path!r}."
        )
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"{target} is a folder. Pass the path of a file.")
    place = os.path.realpath(target)
    for store in stores:
        if place.startswith(os.path.realpath(store) + os.sep):
            raise OptionError(f"{target} is inside the store. Pass another path.")
    if target.exists() and not overwrite:
        raise OptionError(f"{target} exists. Pass overwrite=True or another path.")
    return target


def _is_name(path: str | bytes) -> bool:
    """Whether the operating system accepts a text as a path."""
    try:
        return isinstance(path, str) and bool(path) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _shown(page: PageFacts, other: Saved | None) -> dict[str, Any]:
    """Returns the parts of the page, as its template names them."""
    saved = page.saved
    others = {} if other is None else counterparts(page, other)
    complete = other is not None and other.complete
    count = len(page.rows)
    note = f"Similarity, projections and named rows are of {count:,} rows"
    note += "." if count == saved.rows else f" of {saved.rows:,}, spread evenly."
    left_out = len(page.values) - _MOST_VALUES
    if left_out > 0:
        note += f" {left_out:,} values are not shown."
    if other is not None and len(others) < len(page.values):
        alone = [v.address for v in page.values if v.address not in others]
        note += f" The other store lacks {tables.listed(alone)}."
    return {
        "title": text.printable(f"{saved.plan.model}: {Path(saved.path).name}"),
        "state": _state(saved),
        "other": [] if other is None else _state(other),
        "missing": [(n, text.printable(why)) for n, why in saved.missing.items()],
        "note": note,
        "legend": _legend(page),
        "joins": [_join(facts, page) for facts in page.joins[:_MOST_JOINS]],
        "values": [
            _value(facts, page, others.get(facts.address), complete)
            for facts in page.values[:_MOST_VALUES]
        ],
        "version": importlib.metadata.version("layertap"),
    }


def _state(saved: Saved) -> list[tuple[str, str]]:
    return [(name, text.printable(words)) for name, words in state_of(saved)]


def _legend(page: PageFacts) -> list[tuple[str, str]]:
    colours = list(drawing.colours_of(page).items())
    last = len(drawing.COLOURS) - 1
    if len(colours) > last + 1:
        colours[last:] = [(f"{len(colours) - last} others", drawing.COLOURS[last])]
    return [(text.printable(name), colour) for name, colour in colours]


def _join(facts: JoinFacts, page: PageFacts) -> dict[str, Any]:
    more = len(facts.names) - MOST_BRANCHES
    shown = facts.names[:MOST_BRANCHES]
    return {
        "path": facts.join.path,
        "kind": facts.join.kind,
        "ribbons": drawing.ribbons(facts, page),
        "more": f"{more} more branches are not drawn." if more > 0 else "",
        "cells": drawing.matrix(facts) if len(facts.names) > 1 else [],
        "names": shown,
        "size": len(shown),
    }


def _value(
    facts: ValueFacts,
    page: PageFacts,
    other: Counterpart | None,
    complete: bool,
) -> dict[str, Any]:
    """Returns the parts of a value; `complete` is whether the other store is."""
    histogram, count, line = facts.histogram, len(page.values), ""
    if other is not None and histogram and other.facts.histogram:
        histogram, theirs = aligned(histogram, other.facts.histogram)
        line = drawing.outline(theirs, count)
    edges = (0.0, 0.0) if histogram is None else histogram.edges[[0, -1]].tolist()
    names = dict(zip(page.rows.tolist(), page.row_names, strict=True))
    return {
        "address": facts.address,
        "made_by": text.printable(facts.made_by),
        "form": f"{tables.shape((None, *facts.shape))} {facts.dtype}",
        "bars": drawing.bars(histogram, count),
        "low": f"{edges[0]:.4g}",
        "high": f"{edges[1]:.4g}",
        "facts": _statistics(facts, complete=page.saved.complete),
        "other": [] if other is None else _other_facts(other, complete=complete),
        "outline": line,
        "profile": drawing.profile(facts.statistics, count),
        "points": drawing.scatter(facts, page),
        "maps": _maps(facts, page),
        "plane": facts.projection.words if facts.projection else "",
        "most": text.printable(", ".join(names[row] for row in facts.most_active)),
        "least": text.printable(", ".join(names[row] for row in facts.least_active)),
    }


def _maps(facts: ValueFacts, page: PageFacts) -> list[Picture]:
    """Returns the first maps of the most active row, of a value that has maps."""
    if len(facts.shape) != 3 or not facts.most_active:
        return []
    row = facts.most_active[0]
    saved, name = page.saved, facts.address
    first = name in saved.plan.channels_first
    return list(maps(saved[name][row], row, channels_first=first))


def _statistics(facts: ValueFacts, *, complete: bool) -> list[tuple[str, str, str]]:
    """Returns names, texts and styles of the numbers that a value is known by."""
    if facts.statistics is None:
        why = "none" if complete else "none: the store is not complete"
        why = "none: complex numbers" if facts.dtype.startswith("complex") else why
        return [("statistics", why, "warn")]
    total = facts.statistics.total
    return [
        ("mean", f"{total.mean:.4g}", ""),
        ("deviation", f"{total.deviation:.4g}", ""),
        ("least", f"{total.minimum:.4g}", ""),
        ("largest", f"{total.maximum:.4g}", ""),
        ("zeros", f"{total.share_of_zeros:.1%}", ""),
        ("dead units", f"{total.dead:,} of {total.units:,}", "warn" * bool(total.dead)),
        ("NaN", f"{total.nan:,}", "warn" * bool(total.nan)),
        ("infinite", f"{total.inf:,}", "warn" * bool(total.inf)),
    ]


def _other_facts(other: Counterpart, *, complete: bool) -> list[tuple[str, str, str]]:
    """Returns the same of the other store, and how similar both are."""
    similarity = "other inputs"
    if math.isfinite(other.similarity):
        similarity = f"{other.similarity:.3f} ± {other.uncertainty:.3f}"
    known = _statistics(other.facts, complete=complete)
    return [("similarity (CKA)", similarity, ""), *known]


@functools.cache
def _template() -> Any:
    # Imported for the first page only.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
