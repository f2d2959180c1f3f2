"""Histograms of values, which are merged without a loss."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 128
# The most numbers of one block that are counted; of more, some rows stand for all.
_MOST_COUNTED = 2**18
# Bins are numbered by integers that a float64 holds.
_DIGITS = 52
# The least power of two that a float64 holds.
_LEAST = -1074


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many finite numbers of a value are in each of at most 128 bins.

    A bin is as wide as a power of two, the least for which the bins reach from the
    smallest to the largest number, and begins at a multiple of it. So histograms of
    different rows add up to the one of all rows.

    Attributes:
        exponent: The width of a bin is `2**exponent`.
        first: The first bin begins at `first * 2**exponent`.
        counts: How many numbers each bin has, int64 of shape `(bins,)`.
        sampled: Whether only some rows were counted. Each of them counts for several.
    """

    exponent: int
    first: int
    counts: NDArray[np.int64]
    sampled: bool = False

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Histogram | None":
        """Returns the histogram of real numbers; None if none of them is finite."""
        stride = max(-(-array.size // _MOST_COUNTED), 1)
        # Rows, unless there are fewer than that.
        part = array[::stride] if len(array) >= stride else array.reshape(-1)[::stride]
        # Some NaN signal, and -0.0 becomes 0.0.
        with np.errstate(invalid="ignore"):
            numbers = part.reshape(-1).astype(np.float64) + 0.0
        finite = np.isfinite(numbers)
        if not finite.all():
            numbers = numbers[finite]
        if not len(numbers):
            return None
        low, high = float(numbers.min()), float(numbers.max())
        exponent = _least_exponent(low, high)
        # In halves: a power of two may be too large, or small, for one number.
        half = exponent // 2
        if half:
            numbers *= 2.0**-half
        numbers *= 2.0 ** (half - exponent)
        bins = np.floor(numbers, out=numbers)
        first = _bin(low, exponent)
        if low < 0:
            # Small quotients became negative zeros.
            np.copyto(bins, -1, where=(bins == 0) & np.signbit(bins))
        bins -= first
        counts = np.bincount(bins.astype(np.intp)) * stride
        return cls(exponent, first, counts, stride > 1)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ends of the bins, in order, float64 of shape `(bins + 1,)`."""
        numbers = np.arange(len(self.counts) + 1, dtype=np.float64) + self.first
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(numbers, self.exponent)

    def merge(self, other: "Histogram") -> "Histogram":
        """Returns the histogram of both, as if all numbers had been counted at once."""
        exponent = max(self.exponent, other.exponent)
        both = [one.coarsened(exponent) for one in (self, other)]
        while _reach(both) > MOST_BINS:
            both = [one.coarsened(one.exponent + 1) for one in both]
        first = min(one.first for one in both)
        counts = np.zeros(_reach(both), np.int64)
        for one in both:
            start = one.first - first
            counts[start : start + len(one.counts)] += one.counts
        sampled = self.sampled or other.sampled
        return Histogram(both[0].exponent, first, counts, sampled)

    def coarsened(self, exponent: int) -> "Histogram":
        """Returns the histogram with wider bins."""
        if exponent == self.exponent:
            return self
        # No number of a bin has more binary digits.
        steps = min(exponent - self.exponent, 63)
        bins = (self.first + np.arange(len(self.counts))) >> steps
        counts = np.zeros(int(bins[-1] - bins[0]) + 1, np.int64)
        np.add.at(counts, bins - bins[0], self.counts)
        return replace(self, exponent=exponent, first=int(bins[0]), counts=counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        ours = self.exponent, self.first, self.sampled
        theirs = other.exponent, other.first, other.sampled
        return ours == theirs and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> dict[str, Any]:
        """Returns the ends of the bins and their counts, as data for JSON."""
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist()}


def merged(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    """Returns the histogram of both; of one, if the other has no numbers."""
    if one is None or other is None:
        return one or other
    return one.merge(other)


def aligned(parts: Sequence[Histogram]) -> list[Histogram]:
    """Returns histograms with the same bins: those of all of them together."""
    whole = functools.reduce(Histogram.merge, parts)
    found = []
    for part in parts:
        wide = part.coarsened(whole.exponent)
        counts = np.zeros(len(whole.counts), np.int64)
        start = wide.first - whole.first
        counts[start : start + len(wide.counts)] = wide.counts
        found.append(replace(wide, first=whole.first, counts=counts))
    return found


def _reach(parts: list[Histogram]) -> int:
    ends = [one.first + len(one.counts) for one in parts]
    return max(ends) - min(one.first for one in parts)


def _least_exponent(low: float, high: float) -> int:
    """Returns the exponent of the least width with which the bins reach."""
    largest = max(abs(low), abs(high))
    # Zero needs no width at all.
    exponent = math.frexp(largest)[1] - _DIGITS if largest else _LEAST
    exponent = max(exponent, _LEAST)
    # Halves do not overflow.
    span = high / 2 - low / 2
    if span:
        exponent = max(exponent, math.frexp(span / MOST_BINS)[1] - 1)
    while _bin(high, exponent) - _bin(low, exponent) >= MOST_BINS:
        exponent += 1
    return exponent


def _bin(number: float, exponent: int) -> int:
    half = exponent // 2
    found = math.floor(math.ldexp(math.ldexp(number, -half), half - exponent))
    # A small quotient became zero.
    return -1 if number < 0 and not found else found
