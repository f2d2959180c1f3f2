"""Statistics of a value: how large, how many zeros, how many not finite.

Chan, Golub and LeVeque give the formulas that merge statistics of different rows:
"Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables
from layertap.results.statistics.histogram import Histogram, merged

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOMENTS = ("mean", "variance", "minimum", "maximum")
COUNTS = ("zeros", "nan", "inf")


@dataclass(frozen=True)
class Totals:
    """Statistics of all numbers of a value together.

    Mean, variance, minimum and maximum are of the finite numbers, NaN without any.

    Attributes:
        numbers: How many numbers there are.
        zeros: How many are zero.
        nan: How many are NaN.
        inf: How many are infinite.
        units: How many units the value has.
        dead: How many units have the same finite number in all rows.
    """

    numbers: int
    mean: float
    variance: float
    minimum: float
    maximum: float
    zeros: int
    nan: int
    inf: int
    units: int
    dead: int

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return float(np.sqrt(self.variance))

    @property
    def share_of_zeros(self) -> float:
        """The zeros by all numbers, from 0 to 1."""
        return self.zeros / self.numbers if self.numbers else 0.0


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the numbers of a value, unit by unit.

    A *unit* is a position along the axis of the value's join, usually a feature; along
    the last axis if the join has no axis. A value with one number a row, or with more
    than 32,768 units, is one unit. The zeros of padding count. Integers beyond 2**53
    are rounded.

    Attributes:
        axis: The axis of the units, or None if all numbers are one unit.
        count: How many numbers each unit has.
        mean: The mean of the finite numbers of each unit, float64 of shape `(units,)`;
            NaN without any, also in the three that follow.
        variance: Their variance: the mean of the squared distances from the mean.
        minimum: The smallest of them.
        maximum: The largest of them.
        zeros: How many numbers of each unit are zero, int64 of shape `(units,)`.
        nan: How many are NaN.
        inf: How many are infinite.
        histogram: The `Histogram` of all finite numbers together. None if there are
            none, and of statistics that were not gathered for a store.
    """

    axis: int | None
    count: int
    mean: Floats
    variance: Floats
    minimum: Floats
    maximum: Floats
    zeros: Integers
    nan: Integers
    inf: Integers
    histogram: Histogram | None = field(default=None, kw_only=True)

    @classmethod
    def empty(cls, axis: int | None, units: int) -> "Statistics":
        """Returns the statistics of no numbers."""
        unknown, zeros = np.full(units, np.nan), np.zeros(units, np.int64)
        return cls(axis, 0, *[unknown] * 4, *[zeros] * 3)

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.mean)

    @property
    def finite(self) -> Integers:
        """How many numbers of each unit are finite."""
        return self.count - self.nan - self.inf

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Whether each unit has the same finite number in all rows."""
        return (self.minimum == self.maximum) & (self.finite == self.count)

    @functools.cached_property
    def whole(self) -> "Statistics":
        """The statistics of all numbers together, as one unit."""
        return self.fold(None, (self.units, 1, 1))

    @property
    def total(self) -> Totals:
        """The statistics of all numbers together, as plain numbers."""
        numbers = {n: getattr(self.whole, n).item() for n in (*MOMENTS, *COUNTS)}
        dead = int(self.dead.sum())
        return Totals(self.whole.count, **numbers, units=self.units, dead=dead)

    @classmethod
    def concatenate(
        cls, axis: int | None, parts: Sequence["Statistics"]
    ) -> "Statistics":
        """Concatenates the units of several, whose units have as many numbers."""
        if len(parts) == 1 and parts[0].axis == axis:
            return parts[0]
        names = (*MOMENTS, *COUNTS)
        units = (np.concatenate([getattr(p, name) for p in parts]) for name in names)
        histogram = functools.reduce(merged, [part.histogram for part in parts])
        return cls(axis, parts[0].count, *units, histogram=histogram)

    def fold(self, axis: int | None, shape: tuple[int, int, int]) -> "Statistics":
        """Merges units: reshaped to `shape`, those along its second axis remain."""
        with np.errstate(all="ignore"):
            n, mean, variance = (
                part.reshape(shape) for part in (self.finite, self.mean, self.variance)
            )
            all_n = n.sum((0, 2))
            sums = np.where(n, n * mean, 0).sum((0, 2))
            means = sums / all_n
            apart = variance + (mean - means[:, None]) ** 2
            squares = np.where(n, n * apart, 0).sum((0, 2))
            folded = with_exact_constants(
                axis,
                self.count * shape[0] * shape[2],
                means,
                squares / all_n,
                np.fmin.reduce(self.minimum.reshape(shape), (0, 2)),
                np.fmax.reduce(self.maximum.reshape(shape), (0, 2)),
                *(getattr(self, name).reshape(shape).sum((0, 2)) for name in COUNTS),
            )
        return replace(folded, histogram=self.histogram)

    def merge(self, other: "Statistics") -> "Statistics":
        """Merges the numbers of the same units in other rows."""
        with np.errstate(all="ignore"):
            n, m = self.finite, other.finite
            both = n + m
            apart = other.mean - self.mean
            mean = self.mean + apart * (m / both)
            squares = n * self.variance + m * other.variance
            squares = squares + apart**2 * (n * (m / both))
            mine, theirs = m == 0, n == 0
            variance = np.where(theirs, other.variance, squares / both)
            both_merged = with_exact_constants(
                self.axis,
                self.count + other.count,
                np.where(mine, self.mean, np.where(theirs, other.mean, mean)),
                np.where(mine, self.variance, variance),
                np.fmin(self.minimum, other.minimum),
                np.fmax(self.maximum, other.maximum),
                *(getattr(self, name) + getattr(other, name) for name in COUNTS),
            )
        histogram = merged(self.histogram, other.histogram)
        return replace(both_merged, histogram=histogram)

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as data for JSON, with None for NaN."""
        units = {n: getattr(self, n).tolist() for n in (*MOMENTS, *COUNTS)}
        total = vars(self.total)
        histogram = None if self.histogram is None else self.histogram.to_json()
        return tables.finite(
            {
                "axis": self.axis,
                "count": self.count,
                "total": total,
                "by unit": units,
                "histogram": histogram,
            }
        )


def with_exact_constants(axis: int | None, count: int, *parts: Any) -> Statistics:
    """Returns statistics with mean and variance exact where all numbers are equal."""
    mean, variance, minimum, maximum, *counts = parts
    same = minimum == maximum
    mean, variance = np.where(same, minimum, mean), np.where(same, 0.0, variance)
    return Statistics(axis, count, mean, variance, minimum, maximum, *counts)


def shares(parts: Sequence[float]) -> list[float]:
    """Returns the share that each part has of the sum; NaN where the sum is 0."""
    total = sum(parts)
    return [part / total if total else math.nan for part in parts]
