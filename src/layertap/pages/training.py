"""The steps of a recording, as frames that a slider shows in turn."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import text
from layertap.errors import OptionError
from layertap.pages import drawing
from layertap.pages.facts import Floats, PageFacts
from layertap.pages.projection import project
from layertap.pages.sample import Rows, read
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved
from layertap.results.statistics.histogram import Histogram, aligned
from layertap.results.statistics.moments import Statistics, shares

Places = NDArray[np.intp]

# The most values and steps, and the most of both together.
_MOST_VALUES, _MOST_STEPS, _MOST_BOTH = 24, 24, 240
# The points of all frames together; fewer than the least show nothing.
_ALL_POINTS, _LEAST_POINTS, _MOST_POINTS = 3000, 20, 200
# The bytes of all points, and of one without its names.
_POINT_BYTES, _POINT = 3 * 2**17, 100


@dataclass(frozen=True)
class ValueAtStep:
    """What the page shows of a value at a step.

    Attributes:
        address: Its address.
        statistics: Its statistics at the step.
        histogram: The distribution of its numbers, with the same bins at all steps.
        norm: Its share in the mean squared norm of the branches of its join.
        points: Some rows in the plane of the last step, float64 of shape `(rows, 2)`.
    """

    address: str
    statistics: Statistics
    histogram: Histogram | None
    norm: float | None
    points: Floats | None


@dataclass(frozen=True)
class Frame:
    """A step of a training.

    Attributes:
        step: How often the weights had been updated.
        words: The step, its epoch, and the logs of `fit`.
        places: Which of the rows of the page have points.
        values: Its values.
    """

    step: int
    words: str
    places: Places
    values: list[ValueAtStep]


def last_of(stores: Mapping[int, Saved]) -> Saved:
    """Returns the store of the last step; raises OptionError if there is none."""
    if not stores:
        raise OptionError(
            "The recording is empty. Expected at least one step. Train the model with "
            "a `layertap.Recorder` first."
        )
    unknown = [step for step in stores if not isinstance(step, int | np.integer)]
    if unknown:
        raise OptionError(
            f"A step is invalid. Expected an integer for each store. Received "
            f"{unknown[0]!r}."
        )
    return stores[max(stores)]


def frames(stores: Mapping[int, Saved], page: PageFacts) -> list[Frame]:
    """Returns up to 24 steps, spread evenly; `page` has the facts of the last one."""
    if not stores:
        return []
    steps, names = sorted(stores), [v.address for v in page.values[:_MOST_VALUES]]
    most = min(max(_MOST_BOTH // max(len(names), 1), 2), _MOST_STEPS, len(steps))
    places = np.unique(np.linspace(0, len(steps) - 1, most).astype(int)).tolist()
    chosen = {steps[place]: open_saved(stores[steps[place]]) for place in places}
    known = {step: saved.statistics for step, saved in chosen.items()}
    bins = {name: _histograms(name, known) for name in names}
    norms = {step: _norms(page, statistics) for step, statistics in known.items()}
    few = _few(chosen, page, _fitting(page) // max(len(names) * len(chosen), 1))
    planes = {name: _planes(chosen, name, page.rows[few]) for name in names}
    return [
        Frame(
            *(step, _words(stores, step), few),
            [
                ValueAtStep(
                    *(name, known[step][name], bins[name].get(step)),
                    *(norms[step].get(name), planes[name].get(step)),
                )
                for name in names
                if name in known[step]
            ],
        )
        for step in chosen
    ]


def _words(stores: Any, step: int) -> str:
    """Returns a step in words; a recording knows its epoch and its logs."""
    epochs, logs = getattr(stores, "epochs", {}), getattr(stores, "logs", {})
    words = f"step {step:,}"
    words += f", epoch {epochs[step]:,}" if step in epochs else ""
    numbers = [
        f"{name} {number:.4g}"
        for name, number in logs.get(step, {}).items()
        if isinstance(number, int | float)
    ]
    return text.shorten(": ".join(filter(None, [words, ", ".join(numbers)])), 200)


def _histograms(
    name: str, known: Mapping[int, Mapping[str, Statistics]]
) -> dict[int, Histogram]:
    found = {
        step: statistics[name].histogram
        for step, statistics in known.items()
        if name in statistics
    }
    has = {step: one for step, one in found.items() if one is not None}
    same = aligned([*has.values()]) if has else []
    return dict(zip(has, same, strict=True))


def _norms(page: PageFacts, known: Mapping[str, Statistics]) -> dict[str, float]:
    """Returns the share of each branch in the norm of its join."""
    found: dict[str, float] = {}
    for join in page.joins:
        totals = [known[name].total for name in join.names if name in known]
        if len(totals) == len(join.names):
            with np.errstate(over="ignore"):
                squares = [
                    float(np.square(t.mean) + t.variance) * (t.numbers - t.nan - t.inf)
                    for t in totals
                ]
            found |= zip(join.names, shares(squares), strict=True)
    return {name: share for name, share in found.items() if not math.isnan(share)}


def _fitting(page: PageFacts) -> int:
    """Returns how many points fit into all frames: long names leave room for fewer."""
    longest = [
        max((len(html.escape(name).encode()) for name in names), default=0)
        for names in (page.row_names, page.labels or [])
    ]
    return min(_ALL_POINTS, _POINT_BYTES // (_POINT + sum(longest)))


def _few(stores: Mapping[int, Saved], page: PageFacts, count: int) -> Places:
    """Returns places of rows that all steps have; none if the count is too small."""
    if count < _LEAST_POINTS:
        return np.arange(0)
    common = np.flatnonzero(page.rows < min(saved.rows for saved in stores.values()))
    step = -(-len(common) // min(count, _MOST_POINTS)) or 1
    return common[::step]


def _planes(stores: Mapping[int, Saved], name: str, rows: Rows) -> dict[int, Floats]:
    """Returns rows at each step, in the plane of the last step's components."""
    end = stores[max(stores)]
    last = read(end, name, rows)
    plane = project(last)
    if plane is None:
        return {}
    centre, squares = last.mean(axis=0), np.square(plane.points).sum(axis=0)
    axes = (last - centre).T @ plane.points / np.where(squares > 0, squares, 1)
    found = {}
    for step, saved in stores.items():
        same = name in saved.plan.known and saved[name].shape[1:] == end[name].shape[1:]
        with np.errstate(all="ignore"):
            points = (read(saved, name, rows) - centre) @ axes if same else centre
        if same and np.isfinite(points).all():
            found[step] = points
    return found


def slides(
    stores: Any, shown: Sequence[Frame], page: PageFacts, most: int
) -> dict[str, Any]:
    """Returns the parts of frames with at most so many values, for the template."""
    reach: dict[str, float] = {}
    for value in (value for frame in shown for value in frame.values):
        if value.points is not None and value.points.size:
            far = float(np.abs(value.points).max())
            reach[value.address] = max(reach.get(value.address, 0.0), far)
    of_all = f" of {len(stores):,}" * (len(shown) < len(stores))
    return {
        "count": f"{len(shown)}{of_all} step{'s' * (len(stores) != 1)}",
        "note": " ".join(_notes(stores, page, most)),
        "frames": [
            {
                "step": f"{frame.step:,}",
                "words": text.printable(frame.words),
                "shown": [
                    _slide(value, frame, page, reach.get(value.address, 0.0))
                    for value in frame.values[:most]
                ],
            }
            for frame in shown
        ],
    }


def _notes(stores: Any, page: PageFacts, most: int) -> Iterator[str]:
    """Yields what frames lack; a recording knows what it missed."""
    planes = [value.projection for value in page.values if value.projection]
    if any(plane.explained is None for plane in planes):
        yield "Frames have principal components, not UMAP."
    left_out = len(page.values) - min(most, _MOST_VALUES)
    if left_out > 0:
        yield f"{text.counted(left_out, 'value')} without frames."
    if getattr(stores, "missed", None):
        yield f"{text.counted(len(stores.missed), 'step')} could not be recorded."
    if not getattr(stores, "finished", True):
        yield "The training had not finished."


def _slide(
    value: ValueAtStep, frame: Frame, page: PageFacts, reach: float
) -> dict[str, Any]:
    total, histogram, points = value.statistics.total, value.histogram, value.points
    edges = (0.0, 0.0) if histogram is None else histogram.edges[[0, -1]].tolist()
    return {
        "address": value.address,
        "outline": drawing.outline(histogram, len(page.values)) if histogram else "",
        "low": f"{edges[0]:.4g}",
        "high": f"{edges[1]:.4g}",
        "points": drawing.dots(points, frame.places, page, reach) if reach else [],
        "facts": [
            ("share of the norm", "-" if value.norm is None else f"{value.norm:.0%}"),
            ("mean", f"{total.mean:.4g}"),
            ("deviation", f"{total.deviation:.4g}"),
            ("zeros", f"{total.share_of_zeros:.1%}"),
            ("dead units", f"{total.dead:,} of {total.units:,}"),
            ("NaN", f"{total.nan:,}"),
        ],
    }
