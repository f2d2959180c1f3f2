"""Encodes statistics as JSON: as texts in a store, or packed to the bit in a record."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Plan
from layertap.results.statistics.feature_axes import MOST_STORED, MOST_UNITS
from layertap.results.statistics.histogram import MOST_BINS, Histogram
from layertap.results.statistics.moments import COUNTS, MOMENTS, Statistics

_HISTOGRAM = "histogram"
_Read = Callable[[Any, type], NDArray[Any]]

# The dtypes in which numbers are packed, the narrowest first.
_PACKED_DTYPES: dict[type, tuple[str, ...]] = {
    np.float64: ("<f4", "<f8"),
    np.int64: ("<u1", "<u2", "<u4", "<i8"),
}


def encode(statistics: Statistics, *, exact: bool = False) -> dict[str, Any]:
    """Encodes statistics as JSON: texts of numbers, or `exact`, packed to the bit.

    A store has texts: its attributes are parsed and hashed whenever it is opened, and
    lists of numbers would take longer. Mean and variance are rounded there.
    """
    numbers = {name: getattr(statistics, name) for name in (*MOMENTS, *COUNTS)}
    # Most values have no NaN and no infinity.
    present = {name: n for name, n in numbers.items() if name in MOMENTS or n.any()}
    if exact:
        packed = {name: _pack(n) for name, n in present.items()}
        known: dict[str, Any] = {"count": statistics.count, **packed}
    else:
        known = {name: _format(n, name) for name, n in present.items()}
    histogram = _encode_histogram(statistics.histogram)
    return {"axis": statistics.axis, **known, **histogram}


def decode(texts: Mapping[str, Any], shape: Sequence[int]) -> Statistics:
    """Decodes the texts of a value of a shape; a stranger may have written them."""
    axis = texts["axis"]
    if axis is not None and not (type(axis) is int and 1 <= axis < len(shape)):
        raise ValueError(f"there is no axis of units {axis!r} in shape {shape}")
    units = 1 if axis is None else shape[axis]
    size = math.prod(shape)
    if not 0 < units <= MOST_UNITS or size >= 2**63:
        raise ValueError(f"shape {shape} has no units, or too many, for statistics")
    return _decode(texts, axis, size // units, partial(_parse, units=units))


def decode_exact(packed: Mapping[str, Any]) -> Statistics:
    """Decodes statistics that were encoded to the bit."""
    return _decode(packed, packed["axis"], packed["count"], _unpack)


def decode_all(
    plan: Plan, rows: int, texts: Mapping[str, Any]
) -> dict[str, Statistics]:
    """Decodes the statistics that a store has of its stored values, by address."""
    if not isinstance(texts, Mapping):
        raise TypeError(f"statistics should be a mapping, not {type(texts).__name__}")
    statistics: dict[str, Statistics] = {}
    units_left = MOST_STORED + len(plan.stored)
    for value in plan.stored:
        if value.address in texts:
            shape = [rows, *(size or 0 for size in value.shape[1:])]
            statistics[value.address] = decode(texts[value.address], shape)
            units_left -= statistics[value.address].units
            if units_left < 0:
                raise ValueError("there are more units than a store may have")
    return statistics


def _decode(
    data: Mapping[str, Any], axis: int | None, count: int, read: _Read
) -> Statistics:
    moments = [read(data[name], np.float64) for name in MOMENTS]
    zeros = np.zeros(len(moments[0]), np.int64)
    counts = (read(data[name], np.int64) if name in data else zeros for name in COUNTS)
    histogram = _decode_histogram(data)
    statistics = Statistics(axis, count, *moments, *counts, histogram=histogram)
    _check(statistics)
    return statistics


def _encode_histogram(histogram: Histogram | None) -> dict[str, Any]:
    if histogram is None:
        return {}
    counts = " ".join(map(str, histogram.counts.tolist()))
    known = [histogram.exponent, histogram.first, int(histogram.sampled), counts]
    return {_HISTOGRAM: known}


def _decode_histogram(data: Mapping[str, Any]) -> Histogram | None:
    """Decodes a histogram, if there is one; a stranger may have written it."""
    if _HISTOGRAM not in data:
        return None
    match data[_HISTOGRAM]:
        case [exponent, first, 0 | 1 as sampled, str(text)]:
            counts = _parse(text, int, text.count(" ") + 1)
        case _:
            raise TypeError("a histogram should be two integers, 0 or 1, and a text")
    if not type(exponent) is type(first) is int:
        raise TypeError("the bins of a histogram should be numbered by integers")
    if not -1074 <= exponent <= 1024 or abs(first) > 2**53 or counts.min() < 0:
        raise ValueError("a histogram has bins that no numbers can have")
    if len(counts) > MOST_BINS:
        raise ValueError(f"a histogram has {len(counts)} bins, more than {MOST_BINS}")
    found = Histogram(exponent, first, counts.astype(np.int64), bool(sampled))
    if not np.isfinite(found.edges[0]):
        raise ValueError("a histogram begins at a number that is too large")
    return found


def _check(statistics: Statistics) -> None:
    """Checks that these can be statistics of anything."""
    counts = np.stack([statistics.zeros, statistics.nan, statistics.inf])
    # As floats: the sum of three integers may be too large.
    if counts.min() < 0 or counts.sum(0, np.float64).max() > statistics.count:
        raise ValueError(f"units of {statistics.count} numbers count more than these")
    low, high = statistics.minimum, statistics.maximum
    some = statistics.finite > 0
    if any((some == np.isnan(extreme)).any() for extreme in (low, high)):
        raise ValueError("units without finite numbers have extremes, or the reverse")
    if np.isinf([low, high]).any():
        raise ValueError("an extreme of finite numbers is infinite")
    if (low > high).any() or (statistics.variance < 0).any():
        raise ValueError("a minimum is above a maximum, or a variance below 0")
    histogram = statistics.histogram
    if histogram is not None:
        counted = histogram.counts.sum(dtype=np.float64)
        whole = float(statistics.finite.sum(dtype=np.float64))
        # Of a sample, each number counts for several.
        most = 2.0 * statistics.count * statistics.units
        right = 0 < counted <= most if histogram.sampled else counted == whole > 0
        if not right:
            raise ValueError("a histogram counts other numbers than there are")


def _format(numbers: NDArray[Any], name: str) -> str:
    form = "{:.9g}".format if name in ("mean", "variance") else repr
    # Whole numbers have no fraction. With a space after each number, one call of
    # `replace` finds them all.
    return f"{' '.join(map(form, numbers.tolist()))} ".replace(".0 ", " ")[:-1]


def _parse(text: Any, dtype: type, units: int) -> NDArray[Any]:
    if not isinstance(text, str):
        raise TypeError(f"numbers should be a text, not {type(text).__name__}")
    # Before it is split, which takes memory.
    if text.count(" ") != units - 1 or len(text) > 32 * units:
        raise ValueError(f"{text[:40]!r}… should be {units} numbers")
    return np.array([dtype(word) for word in text.split(" ")], dtype)


def _pack(numbers: NDArray[Any]) -> list[str]:
    """Packs numbers in the first dtype that has each of them to the bit."""
    for name in _PACKED_DTYPES[numbers.dtype.type]:
        # A number that is too large becomes another one.
        with np.errstate(all="ignore"):
            packed = numbers.astype(name)
        if np.array_equal(packed, numbers, equal_nan=True):
            break
    return [name, base64.b64encode(packed.tobytes()).decode()]


def _unpack(packed: Sequence[str], dtype: type) -> NDArray[Any]:
    name, text = packed
    if name not in _PACKED_DTYPES[dtype]:
        raise ValueError(f"numbers can't be packed as {name!r}")
    return np.frombuffer(base64.b64decode(text), name).astype(dtype)
