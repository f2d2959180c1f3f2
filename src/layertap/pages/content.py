"""The content of a page: its facts, in the words and pictures of the template."""

import functools
import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layertap.core import tables, text
from layertap.core.display.pictures import Picture, maps
from layertap.pages import drawing, flow, training
from layertap.pages.against import Counterpart, counterparts
from layertap.pages.facts import PageFacts, ValueFacts, state_of
from layertap.pages.rows.pictures import shown_rows
from layertap.results.saved import Saved
from layertap.results.statistics.histogram import aligned

# The most values, joins and missing values of a page, and bytes of all of it.
_MOST_VALUES, _MOST_JOINS, _MOST_MISSING, _MOST_BYTES = 400, 100, 200, 2_000_000
# The most characters of a missing value and its reason.
_LONGEST = 400


def page_content(
    page: PageFacts, other: Saved | None, steps: Mapping[int, Saved], inputs: Any
) -> str:
    """Returns the page as HTML, with as many values and joins as fit into 2 MB."""
    others = {} if other is None else counterparts(page, other)
    frames = training.frames(steps, page)
    # A path may be relative, as `.` is.
    name = Path(getattr(steps, "path", page.saved.path)).absolute().name
    shown = {
        "title": text.printable(f"{page.saved.plan.model}: {name}"),
        "state": _state(page.saved),
        "other": [] if other is None else _state(other),
        "missing": [
            (text.shorten(name, _LONGEST), text.shorten(why, _LONGEST))
            for name, why in page.saved.missing.items()
        ],
        "most_missing": _MOST_MISSING,
        "legend": _legend(page),
        "rows": shown_rows(page, inputs),
        "version": importlib.metadata.version("layertap"),
    }
    complete = other is not None and other.complete
    values, joins = _MOST_VALUES, _MOST_JOINS
    while True:
        content = _template().render(
            **shown,
            note=" ".join(_notes(page, other, others, values, joins)),
            training=training.slides(steps, frames, page, values),
            flow=flow.flow(page, joins),
            values=[
                _value(facts, page, others.get(facts.address), complete)
                for facts in page.values[:values]
            ],
        )
        if len(content.encode()) <= _MOST_BYTES or values == 1:
            return str(content)
        values = max(min(values, len(page.values)) * 3 // 4, 1)
        joins = max(min(joins, len(page.joins)) * 3 // 4, 1)


def _notes(
    page: PageFacts,
    other: Saved | None,
    others: Mapping[str, Counterpart],
    values: int,
    joins: int,
) -> Iterator[str]:
    """Yields what the page does not show, or not of all rows."""
    count, rows = len(page.rows), page.saved.rows
    of = "" if count == rows else f" of {rows:,}, spread evenly"
    what = "Shares of the norm, similarity" if of else "Similarity"
    yield f"{what}, projections and named rows are of {count:,} rows{of}."
    left_out = {"join": len(page.joins) - joins, "value": len(page.values) - values}
    for noun, more in left_out.items():
        if more > 0:
            yield f"Not shown: {text.counted(more, noun)}."
    if other is not None and len(others) < len(page.values):
        alone = [v.address for v in page.values if v.address not in others]
        yield f"The other store lacks {text.listed(alone)}."


def _state(saved: Saved) -> list[tuple[str, str]]:
    return [(name, text.printable(words)) for name, words in state_of(saved)]


def _legend(page: PageFacts) -> list[tuple[str, str]]:
    colours = list(drawing.colours_of(page).items())
    last = len(drawing.COLOURS) - 1
    if len(colours) > last + 1:
        colours[last:] = [(f"{len(colours) - last} others", drawing.COLOURS[last])]
    return [(text.printable(name), colour) for name, colour in colours]


def _value(
    facts: ValueFacts,
    page: PageFacts,
    other: Counterpart | None,
    complete: bool,
) -> dict[str, Any]:
    """Returns the parts of a value; `complete` is whether the other store is."""
    histogram, count, line = facts.histogram, len(page.values), ""
    if other is not None and histogram and other.facts.histogram:
        histogram, theirs = aligned([histogram, other.facts.histogram])
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
    if other.same_inputs:
        similarity = flow.estimate(other.similarity, other.uncertainty)
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
