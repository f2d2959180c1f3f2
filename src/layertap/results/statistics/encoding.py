"""How a store keeps statistics: as texts of numbers, which are read with care."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Plan
from layertap.results.statistics.feature_axes import MOST_STORED, MOST_UNITS
from layertap.results.statistics.moments import COUNTED, MOMENTS, Statistics

# By the dtypes in which a worker notes numbers, the narrowest first: that of them all.
_WHOLE = {
    **dict.fromkeys(["<u1", "<u2", "<u4", "<i8"], np.int64),
    **dict.fromkeys(["<f4", "<f8"], np.float64),
}


def kept(plan: Plan, rows: int, texts: Mapping[str, Any]) -> dict[str, Statistics]:
    """Returns the statistics that a store keeps of its values.

    Args:
        plan: The plan of the values.
        rows: How many rows there are.
        texts: By address, what `to_texts` gave.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part is of another type.
        ValueError: If they can't be those of such values.
    """
    if not isinstance(texts, Mapping):
        raise TypeError(f"statistics are no {type(texts).__name__}")
    found: dict[str, Statistics] = {}
    room = MOST_STORED + len(plan.stored)
    for value in plan.stored:
        if value.address in texts:
            shape = [rows, *(size or 0 for size in value.shape[1:])]
            found[value.address] = from_texts(texts[value.address], shape)
            room -= found[value.address].units
            if room < 0:
                raise ValueError("there are more units than any store has")
    return found


def to_texts(statistics: Statistics) -> dict[str, Any]:
    """Returns what a store keeps of the statistics: a text of numbers for each.

    Texts, for lists of numbers would be read, sealed and laid out one by one
    whenever the store is opened.

    Args:
        statistics: The statistics of one value.
    """
    # What is computed is rounded anyway, what was there is exact.
    forms = (_rounded, _rounded, _exact, _exact)
    texts = {
        name: " ".join(map(form, getattr(statistics, name).tolist()))
        for name, form in zip(MOMENTS, forms, strict=True)
    }
    for name in COUNTED:
        counts = getattr(statistics, name)
        if counts.any():
            texts[name] = " ".join(map(str, counts.tolist()))
    return {"axis": statistics.axis, **texts}


def from_texts(data: Mapping[str, Any], shape: Sequence[int]) -> Statistics:
    """Returns the statistics that `to_texts` gave.

    Args:
        data: What is in the store.
        shape: The shape of the value, rows and all.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part is of another type.
        ValueError: If they can't be those of such a value.
    """
    axis = data["axis"]
    if axis is not None and not (type(axis) is int and 1 <= axis < len(shape)):
        raise ValueError(f"there is no axis of units {axis!r} in shape {shape}")
    units = 1 if axis is None else shape[axis]
    numbers = 1
    for size in shape:
        numbers *= size
    if units > MOST_UNITS or numbers >= 2**63:
        raise ValueError(f"shape {shape} is too large to have statistics")
    none = " ".join(["0"] * units)
    found = Statistics(
        axis,
        numbers // units,
        *(_numbers(data[name], units, np.float64) for name in MOMENTS),
        *(_numbers(data.get(name, none), units, np.int64) for name in COUNTED),
    )
    _check(found)
    return found


def to_bytes(statistics: Statistics) -> dict[str, Any]:
    """Returns what `from_bytes` makes the same statistics of, to the bit.

    Args:
        statistics: The statistics of some rows of a value.
    """
    numbers = {
        name: _packed(getattr(statistics, name))
        for name in (*MOMENTS, *COUNTED)
        # Of most values none is NaN or infinite.
        if name in MOMENTS or getattr(statistics, name).any()
    }
    return {"axis": statistics.axis, "count": statistics.count, **numbers}


def from_bytes(data: Mapping[str, Any]) -> Statistics:
    """Returns the statistics that `to_bytes` gave.

    Args:
        data: What a worker has noted of some rows.

    Raises:
        KeyError: If a part is missing.
        ValueError: If they can't be statistics.
    """
    moments = [_unpacked(data[name]) for name in MOMENTS]
    none: NDArray[np.int64] = np.zeros(len(moments[0]), np.int64)
    counted = (_unpacked(data[name]) if name in data else none for name in COUNTED)
    found = Statistics(data["axis"], data["count"], *moments, *counted)
    _check(found)
    return found


def _packed(numbers: NDArray[Any]) -> list[str]:
    """Returns numbers in the first narrower dtype that has each of them to the bit."""
    for name, whole in _WHOLE.items():
        if whole == numbers.dtype:
            # A number that is too large is another one then.
            with np.errstate(all="ignore"):
                narrow = numbers.astype(name)
            if np.array_equal(narrow, numbers, equal_nan=True):
                break
    return [name, base64.b64encode(narrow.tobytes()).decode()]


def _unpacked(packed: Sequence[str]) -> NDArray[Any]:
    name, text = packed
    return np.frombuffer(base64.b64decode(text), name).astype(_WHOLE[name])


def _check(found: Statistics) -> None:
    """Checks that these can be statistics of anything.

    Raises:
        ValueError: If not.
    """
    counts = np.stack([found.zeros, found.nan, found.inf])
    # As floating numbers: the sum of three whole ones may be too large.
    if counts.min() < 0 or counts.sum(0, np.float64).max() > found.count:
        raise ValueError(f"units of {found.count} numbers hold more of a kind")
    some = found.finite > 0
    known = [~np.isnan(found.minimum), ~np.isnan(found.maximum)]
    if any((there != some).any() for there in known):
        raise ValueError("units have extremes, but no numbers, or the reverse")
    if np.isinf([found.minimum, found.maximum]).any():
        raise ValueError("an extreme of finite numbers is infinite")
    if (found.minimum > found.maximum).any() or (found.variance < 0).any():
        raise ValueError("a minimum is above a maximum, or a variance below 0")


def _rounded(number: float) -> str:
    return f"{number:.9g}"


def _exact(number: float) -> str:
    return repr(number).removesuffix(".0")


def _numbers(text: Any, units: int, dtype: type) -> NDArray[Any]:
    """Returns the numbers of a text, of which there have to be so many."""
    if not isinstance(text, str):
        raise TypeError(f"numbers should be a text, not {type(text).__name__}")
    # Before it is taken apart, which takes memory.
    if text.count(" ") != units - 1 or len(text) > 32 * units:
        raise ValueError(f"{text[:40]!r}… should be {units} numbers")
    return np.array([dtype(word) for word in text.split(" ")], dtype)
