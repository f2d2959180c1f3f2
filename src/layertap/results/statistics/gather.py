"""Gathers statistics of rows on their way to a store.

Numbers are read in pieces that fit the processor's cache. A piece is a table of few
rows: each column is summed in 32 bits, and the columns are merged in 64 bits.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Plan
from layertap.errors import OptionError
from layertap.results.statistics.encoding import decode_exact, encode
from layertap.results.statistics.feature_axes import unit_axes
from layertap.results.statistics.histogram import Histogram
from layertap.results.statistics.moments import Statistics, with_exact_constants

# The size of a piece, about one MiB; a byte can count the zeros of its columns.
_COLUMNS, _ROWS = 1024, 255
# With fewer rows, there would be nearly as many columns as numbers.
_FEW = 64

# If the squared mean is more times the variance than this, a difference of the two
# loses digits. Then distances from the mean are squared.
_FAR = {"float32": 16.0, "float64": 1e6}

_NARROW_FLOATS = ("float16", "bfloat16", "float32")

# The squares of smaller numbers are 0.
_SMALL = {"float32": 1e-15, "float64": 1e-140}


class Gatherer:
    """Gathers the statistics of the values of a plan from blocks of rows in order.

    The same rows in the same blocks give the same statistics, to the bit. All sizes of
    the plan have to be known.
    """

    def __init__(self, plan: Plan) -> None:
        self._axes = unit_axes(plan)
        # The addresses of the values that have statistics.
        self.names = list(self._axes)
        self._statistics: dict[str, Statistics] = {}
        self._rows = dict.fromkeys(self._axes, 0)

    def add(self, row: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Adds rows from number `row` on, by address; other arrays are ignored."""
        for name in self._axes.keys() & arrays.keys():
            if row != self._rows[name]:
                raise OptionError(
                    f"Rows of {name} from {row} on are not the next ones. Expected row "
                    f"{self._rows[name]}. Add all rows in order."
                )
            array = arrays[name]
            self._merge(name, len(array), _with_histogram(array, self._axes[name]))

    def summarize(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns a summary of rows for `add_summary`, as JSON; adds nothing here."""
        return {
            name: encode(_with_histogram(arrays[name], axis), exact=True)
            for name, axis in self._axes.items()
        }

    def add_summary(self, rows: int, summary: Mapping[str, Any]) -> None:
        """Adds the next `rows` rows by their summary."""
        for name in self._axes:
            self._merge(name, rows, decode_exact(summary[name]))

    def _merge(self, name: str, rows: int, statistics: Statistics) -> None:
        before = self._statistics.get(name)
        self._statistics[name] = before.merge(statistics) if before else statistics
        self._rows[name] += rows

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as a store has them, by address."""
        gathered = (name for name in self._axes if name in self._statistics)
        return {name: encode(self._statistics[name]) for name in gathered}


def _with_histogram(array: NDArray[Any], axis: int | None) -> Statistics:
    statistics = compute_statistics(array, axis)
    return replace(statistics, histogram=Histogram.of(array))


def compute_statistics(array: NDArray[Any], axis: int | None) -> Statistics:
    """Computes the statistics of real numbers, with units along `axis`.

    The rows are along the first axis; with `axis=None`, all numbers are one unit.
    """
    shape = array.shape
    units = 1 if axis is None else shape[axis]
    inner = 1 if axis is None else math.prod(shape[axis + 1 :])
    statistics = Statistics.empty(axis, units)
    if not array.size:
        return statistics
    # NaN, infinities and numbers too large to be squared are handled below.
    with np.errstate(all="ignore"):
        for places, tables in _tables(array.reshape(-1, units, inner)):
            # Tables with as many rows are merged at once.
            for _, alike in itertools.groupby(tables, lambda table: table.shape[1]):
                pieces = (piece for table in alike for piece in _pieces(table))
                columns = Statistics.concatenate(
                    None, [_piece_statistics(_to_floats(piece)) for piece in pieces]
                )
                shape = (columns.units // (units * places), units, places)
                statistics = statistics.merge(columns.fold(axis, shape))
    return statistics


Tables = Iterator[NDArray[Any]]


def _tables(array: NDArray[Any]) -> Iterator[tuple[int, Tables]]:
    """Splits an array of `(rows, units, places)` to arrays `(tables, rows, columns)`.

    Yields how many columns each unit has, and these arrays.
    """
    rows, units, places = array.shape
    if rows >= _FEW or places < _FEW:
        yield places, _row_tables(array.reshape(rows, units * places))
        return
    # Few rows of large maps: the places of each unit are a table.
    height = min(math.isqrt(places), _ROWS)
    width = places // height
    even = array[:, :, : height * width].reshape(rows * units, height, width)
    yield width, iter([even])
    if height * width < places:
        yield 1, iter([array[:, :, height * width :].reshape(rows * units, -1, 1)])


def _row_tables(array: NDArray[Any]) -> Tables:
    """Yields tables of at most so many rows of an array; narrow rows are joined."""
    joined = max(_COLUMNS // array.shape[1], 1)
    even = len(array) - len(array) % joined
    for part in (array[:even].reshape(-1, joined * array.shape[1]), array[even:]):
        for start in range(0, len(part), _ROWS):
            yield part[None, start : start + _ROWS]


def _pieces(tables: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Splits tables to pieces of some columns, or of some tables."""
    count, rows, columns = tables.shape
    if columns >= _COLUMNS:
        for table in tables:
            for start in range(0, columns, _COLUMNS):
                yield table[None, :, start : start + _COLUMNS]
        return
    step = max(_COLUMNS * _ROWS // (rows * columns), 1)
    for start in range(0, count, step):
        yield tables[start : start + step]


def _to_floats(part: NDArray[Any]) -> NDArray[Any]:
    """Converts numbers to float32 or float64 without changing them."""
    # Sums of 255 squares of bytes are exact in float32.
    narrow = part.dtype.itemsize == 1 or part.dtype.name in _NARROW_FLOATS
    return part.astype(np.float32 if narrow else np.float64, copy=False)


def _piece_statistics(piece: NDArray[Any]) -> Statistics:
    """Returns the statistics of small tables, each column a unit."""
    rows, precision = piece.shape[1], piece.dtype.name
    sums = np.add.reduce(piece, 1).astype(np.float64)
    squares = np.einsum("tij,tij->tj", piece, piece).astype(np.float64)
    if not np.isfinite(sums.sum() + squares.sum()):
        return _careful_statistics(piece)
    low, high = np.minimum.reduce(piece, 1), np.maximum.reduce(piece, 1)
    same = low == high
    small = np.maximum(high, -low) < _SMALL[precision]
    if (small & ~same).any():
        return _careful_statistics(piece)
    mean = sums / rows
    variance = squares / rows - mean**2
    if ((variance * _FAR[precision] < mean**2) & ~same).any():
        center = mean.astype(piece.dtype)
        distances = piece - center[:, None]
        offset = np.add.reduce(distances, 1).astype(np.float64) / rows
        squares = np.einsum("tij,tij->tj", distances, distances).astype(np.float64)
        variance = squares / rows - offset**2
        mean = center + offset
    zeros: NDArray[Any] = np.zeros(mean.shape, np.uint8)
    if ((low <= 0) & (high >= 0)).any():
        zeros = np.add.reduce((piece == 0).view(np.uint8), 1, np.uint8)
    absent = np.zeros(mean.size, np.int64)
    floats = (mean, np.maximum(variance, 0), low, high)
    moments = [part.astype(np.float64).ravel() for part in floats]
    counts = (zeros.astype(np.int64).ravel(), absent, absent)
    return with_exact_constants(None, rows, *moments, *counts)


def _careful_statistics(piece: NDArray[Any]) -> Statistics:
    """Returns the same if numbers, or their squares, are not finite."""
    piece = piece.astype(np.float64)
    finite, nan = np.isfinite(piece), np.isnan(piece)
    n = finite.sum(1)
    mean = np.where(finite, piece, 0).sum(1) / n
    variance = np.where(finite, (piece - mean[:, None]) ** 2, 0).sum(1) / n
    known = np.where(finite, piece, np.nan)
    moments = (mean, variance, np.fmin.reduce(known, 1), np.fmax.reduce(known, 1))
    counts = ((piece == 0).sum(1), nan.sum(1), (~finite & ~nan).sum(1))
    parts = (part.ravel() for part in (*moments, *counts))
    return with_exact_constants(None, piece.shape[1], *parts)
