"""Gathers statistics of rows as they pass on their way to a store.

The numbers of a block are gone through piece by piece, so that each is fetched from
memory once and is in the processor's cache for all that is asked of it. A piece is a
table: its columns are positions that follow each other, and are added up on their own,
few numbers each, so that 32 bits are enough for them. The columns are put together in
64 bits.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Plan
from layertap.errors import OptionError
from layertap.results.statistics.encoding import from_bytes, to_bytes, to_texts
from layertap.results.statistics.feature_axes import unit_axes
from layertap.results.statistics.moments import Statistics, sound

# Numbers of a piece, about one MiB; no column has more zeros than a byte can count.
_COLUMNS, _ROWS = 1024, 255
# Of fewer rows, the columns would be nearly as many as the numbers.
_FEW = 64

# Beyond this share of the variance by the squared mean, digits are lost in the
# difference of the two: distances from the mean are taken first.
_FAR = {"float32": 16.0, "float64": 1e6}

# The squares of numbers below vanish.
_SMALL = {"float32": 1e-15, "float64": 1e-140}


class Gatherer:
    """Gathers the statistics of the values of a plan, from blocks of rows in order.

    Cut into the same blocks, the same rows give the same statistics, to the bit.

    Args:
        plan: The plan of the values. All sizes are known.
    """

    def __init__(self, plan: Plan) -> None:
        self._axes = unit_axes(plan)
        self._found: dict[str, Statistics] = {}
        self._rows = dict.fromkeys(self._axes, 0)

    @property
    def names(self) -> list[str]:
        """The addresses of the values that are looked at."""
        return list(self._axes)

    def add(self, row: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes in some more rows.

        Args:
            row: The number of the first one.
            arrays: By address, the rows; arrays that are no values are left out.

        Raises:
            OptionError: If rows before are missing, or these were taken in before.
        """
        for name in self._axes.keys() & arrays.keys():
            if row != self._rows[name]:
                raise OptionError(
                    f"Rows of {name} from {row} on can't be looked at: the next one is "
                    f"{self._rows[name]}. Give all rows in order."
                )
            found = of_rows(arrays[name], self._axes[name])
            self._take(name, len(arrays[name]), found)

    def noted(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Returns what `add_noted` takes in, of rows that are not taken in here.

        Args:
            arrays: As of `add`.
        """
        return {
            name: to_bytes(of_rows(arrays[name], axis))
            for name, axis in self._axes.items()
        }

    def add_noted(self, rows: int, noted: Mapping[str, Any]) -> None:
        """Takes in the next rows, of which it was noted what is known.

        Args:
            rows: How many rows they are.
            noted: What `noted` gave.

        Raises:
            KeyError: If a part is missing.
            ValueError: If they can't be statistics.
        """
        for name in self._axes:
            self._take(name, rows, from_bytes(noted[name]))

    def _take(self, name: str, rows: int, found: Statistics) -> None:
        before = self._found.get(name)
        self._found[name] = found if before is None else before.merged(found)
        self._rows[name] += rows

    def to_json(self) -> dict[str, Any]:
        """Returns what a store keeps of the statistics, by address."""
        return {
            name: to_texts(self._found[name])
            for name in self._axes
            if name in self._found
        }


def of_rows(array: NDArray[Any], axis: int | None) -> Statistics:
    """Returns the statistics of an array of real numbers.

    Args:
        array: The array, its rows along the first axis.
        axis: The axis of its units, or None if all numbers are one.
    """
    shape = array.shape
    units = 1 if axis is None else shape[axis]
    inner = 1 if axis is None else math.prod(shape[axis + 1 :])
    found = Statistics.nothing(axis, units)
    if not array.size:
        return found
    # NaN, infinities, numbers that are too large to be squared: all are looked after.
    with np.errstate(all="ignore"):
        for places, tables in _tables(array.reshape(-1, units, inner)):
            # Tables of as many rows are put together at once.
            for _, alike in itertools.groupby(tables, lambda table: table.shape[1]):
                pieces = (piece for table in alike for piece in _pieces(table))
                columns = [_of_piece(_computable(piece)) for piece in pieces]
                together = Statistics.joined(None, columns)
                form = (together.units // (units * places), units, places)
                found = found.merged(together.folded(axis, form))
    return found


Tables = Iterator[NDArray[Any]]


def _tables(array: NDArray[Any]) -> Iterator[tuple[int, Tables]]:
    """Yields an array as tables, several beside each other: `(tables, rows, columns)`.

    Args:
        array: Of shape `(rows, units, places)`.

    Yields:
        How many columns each unit has, and the tables.
    """
    rows, units, places = array.shape
    if rows >= _FEW or places < _FEW:
        yield places, _in_rows(array.reshape(rows, units * places))
        return
    # Few rows of large maps: the places of each unit are a table.
    deep = min(math.isqrt(places), _ROWS)
    wide = places // deep
    even = array[:, :, : deep * wide].reshape(rows * units, deep, wide)
    yield wide, iter([even])
    if deep * wide < places:
        yield 1, iter([array[:, :, deep * wide :].reshape(rows * units, -1, 1)])


def _in_rows(array: NDArray[Any]) -> Tables:
    """Yields the rows of an array, not too many at a time."""
    # Of narrow rows, several beside each other.
    beside = max(_COLUMNS // array.shape[1], 1)
    even = len(array) - len(array) % beside
    for part in (array[:even].reshape(-1, beside * array.shape[1]), array[even:]):
        for start in range(0, len(part), _ROWS):
            yield part[None, start : start + _ROWS]


def _pieces(tables: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields tables some columns, or some tables, at a time."""
    count, rows, columns = tables.shape
    if columns >= _COLUMNS:
        for table in tables:
            for start in range(0, columns, _COLUMNS):
                yield table[None, :, start : start + _COLUMNS]
        return
    many = max(_COLUMNS * _ROWS // (rows * columns), 1)
    for start in range(0, count, many):
        yield tables[start : start + many]


def _computable(part: NDArray[Any]) -> NDArray[Any]:
    """Returns numbers in 32 or 64 bits, floating, none of them changed."""
    if part.dtype.name == "bfloat16":
        # The upper half of the same number in 32 bits; to convert it takes longer.
        return (part.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if part.dtype == np.float16:
        return _widened(part)
    if part.dtype.itemsize == 1:
        # Sums of 255 squares of bytes are exact, too.
        return part.astype(np.float32)
    return part if part.dtype == np.float32 else part.astype(np.float64)


def _widened(part: NDArray[Any]) -> NDArray[Any]:
    """Returns numbers of 16 bits in 32, six times as fast as NumPy converts them."""
    bits = part.view(np.uint16)
    if ((bits & 0x7C00) == 0x7C00).any():
        # NaN and infinities.
        return part.astype(np.float32)
    moved = (bits & 0x7FFF).astype(np.uint32) << 13
    # The exponents count from another number, 112 below.
    size = (moved.view(np.float32) * np.float32(2**112)).view(np.uint32)
    sign = (bits & 0x8000).astype(np.uint32) << 16
    return (size | sign).view(np.float32)


def _of_piece(piece: NDArray[Any]) -> Statistics:
    """Returns the statistics of small tables, each column a unit."""
    rows, precision = piece.shape[1], piece.dtype.name
    sums = np.add.reduce(piece, 1).astype(np.float64)
    squares = np.einsum("tij,tij->tj", piece, piece).astype(np.float64)
    if not np.isfinite(sums.sum() + squares.sum()):
        return _carefully(piece)
    low, high = np.minimum.reduce(piece, 1), np.maximum.reduce(piece, 1)
    same = low == high
    small = np.maximum(high, -low) < _SMALL[precision]
    if (small & ~same).any():
        return _carefully(piece)
    mean = sums / rows
    variance = squares / rows - mean**2
    if ((variance * _FAR[precision] < mean**2) & ~same).any():
        about = mean.astype(piece.dtype)
        apart = piece - about[:, None]
        center = np.add.reduce(apart, 1).astype(np.float64) / rows
        squares = np.einsum("tij,tij->tj", apart, apart).astype(np.float64)
        variance = squares / rows - center**2
        mean = about + center
    zeros: NDArray[Any] = np.zeros(mean.shape, np.uint8)
    if ((low <= 0) & (high >= 0)).any():
        zeros = np.add.reduce((piece == 0).view(np.uint8), 1, np.uint8)
    none = np.zeros(mean.size, np.int64)
    moments = (mean, np.maximum(variance, 0), low, high)
    floats = [part.astype(np.float64).ravel() for part in moments]
    return sound(None, rows, *floats, zeros.astype(np.int64).ravel(), none, none)


def _carefully(piece: NDArray[Any]) -> Statistics:
    """Returns the same where numbers are not finite, or their squares are not."""
    piece = piece.astype(np.float64)
    finite, nan = np.isfinite(piece), np.isnan(piece)
    n = finite.sum(1)
    mean = np.where(finite, piece, 0).sum(1) / n
    variance = np.where(finite, (piece - mean[:, None]) ** 2, 0).sum(1) / n
    known = np.where(finite, piece, np.nan)
    moments = (mean, variance, np.fmin.reduce(known, 1), np.fmax.reduce(known, 1))
    counts = ((piece == 0).sum(1), nan.sum(1), (~finite & ~nan).sum(1))
    return sound(None, piece.shape[1], *(part.ravel() for part in (*moments, *counts)))
