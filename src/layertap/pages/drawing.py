"""Draws numbers as SVG: bars, profiles and points."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layertap.pages.facts import PageFacts, ValueFacts
from layertap.results.statistics.histogram import Histogram
from layertap.results.statistics.moments import Statistics

Floats = NDArray[np.float64]

# The colours of Okabe and Ito, which colour-blind people can distinguish, and more.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"),
    *("#b5a900", "#9966cc", "#8c564b", "#7f7f7f"),
)
_MOST_BARS, _MOST_PLACES = 64, 128
# Of more values, each has fewer of both: a page stays small.
_MANY, _FEWER_BARS, _FEWER_PLACES = 40, 20, 32


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: its place and height from 0 to 1, and its words."""

    x: float
    width: float
    height: float
    words: str


def outline(histogram: Histogram, values: int) -> str:
    """Returns a histogram of one of so many values as a line in a square of side 1."""
    heights = [bar.height for bar in bars(histogram, values)]
    steps = [
        f"H{place / len(heights):.4f}V{1 - height:.4f}H{(place + 1) / len(heights):.4f}"
        for place, height in enumerate(heights)
    ]
    return "M0 1" + "".join(steps) + "V1"


def bars(histogram: Histogram | None, values: int) -> list[Bar]:
    """Returns the bars of a histogram of one of so many values.

    Neighbours are added, up to 64 bars.
    """
    if histogram is None:
        return []
    counts, edges = histogram.counts, histogram.edges
    most = _MOST_BARS if values <= _MANY else _FEWER_BARS
    step = -(-len(counts) // most)
    sums = np.add.reduceat(counts, np.arange(0, len(counts), step))
    ends = [*edges[:-1:step], edges[-1]]
    about = "about " if histogram.sampled else ""
    return [
        Bar(
            *(place / len(sums), 1 / len(sums), count / max(sums.max(), 1)),
            f"{ends[place]:.4g} to {ends[place + 1]:.4g}: {about}{count:,} numbers",
        )
        for place, count in enumerate(sums.tolist())
    ]


@dataclass(frozen=True)
class Profile:
    """Mean and deviation by unit, as paths in a square of side 1, and its scale."""

    band: str
    line: str
    zero: float | None
    low: float
    high: float
    units: int


def profile(statistics: Statistics | None, values: int) -> Profile | None:
    """Returns the profile of a value of several units, up to 128 places wide."""
    if statistics is None or statistics.units < 2:
        return None
    most = _MOST_PLACES if values <= _MANY else _FEWER_PLACES
    step = -(-statistics.units // most)
    starts = np.arange(0, statistics.units, step)
    with np.errstate(all="ignore"):
        sizes = np.diff([*starts, statistics.units])
        mean = np.add.reduceat(np.nan_to_num(statistics.mean), starts) / sizes
        spread = np.sqrt(np.nan_to_num(statistics.variance))
        spread = np.add.reduceat(spread, starts) / sizes
        low, high = float((mean - spread).min()), float((mean + spread).max())
    # Of numbers that are alike, the line is in the middle.
    high = high if high > low else low + max(abs(low), 1.0)
    if not math.isfinite(high - low):
        return None

    def points(numbers: Floats) -> list[str]:
        places = np.linspace(0, 1, len(numbers))
        heights = 1 - (numbers - low) / (high - low)
        pairs = zip(places.tolist(), heights.tolist(), strict=True)
        return [f"{x:.4f} {y:.4f}" for x, y in pairs]

    band = [*points(mean + spread), *points(mean - spread)[::-1]]
    zero = 1 + low / (high - low) if low < 0 < high else None
    line = "M" + "L".join(points(mean))
    return Profile(f"M{'L'.join(band)}z", line, zero, low, high, statistics.units)


@dataclass(frozen=True)
class Point:
    """A row in a plane: its place from 0 to 1, its colour and its words."""

    x: float
    y: float
    colour: str
    words: str


def scatter(value: ValueFacts, page: PageFacts) -> list[Point]:
    """Returns the points of a projection, coloured by label."""
    if value.projection is None:
        return []
    points = value.projection.points
    step = -(-len(page.rows) // len(points))
    places = np.arange(0, len(page.rows), step)
    return dots(points, places, page, float(np.abs(points).max()))


def dots(
    points: Floats | None, places: NDArray[np.intp], page: PageFacts, reach: float
) -> list[Point]:
    """Returns the points of some rows of a page, in a plane that reaches so far."""
    if points is None:
        return []
    colours, found = colours_of(page), []
    for (x, y), place in zip(points.tolist(), places.tolist(), strict=True):
        words, colour = page.row_names[place], COLOURS[0]
        if page.labels is not None:
            words += f", label {page.labels[place]}"
            colour = colours[page.labels[place]]
        at = (0.5 + x / (reach or 1) / 2.1, 0.5 - y / (reach or 1) / 2.1)
        found.append(Point(round(at[0], 3), round(at[1], 3), colour, words))
    return found


def colours_of(page: PageFacts) -> dict[str, str]:
    """Returns a colour for each label; of more than ten, the last is of several."""
    names = dict.fromkeys(sorted(page.labels or [], key=_natural))
    last = len(COLOURS) - 1
    return {name: COLOURS[min(place, last)] for place, name in enumerate(names)}


def _natural(name: str) -> tuple[int, str]:
    number = name.removeprefix("-")
    # Python reads no longer ones.
    whole = number.isascii() and number.isdecimal() and len(number) < 20
    return (int(name), "") if whole else (2**62, name)
