"""Indexes as NumPy has them: what to read of each axis, and how to arrange that."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The rows to read: a range that goes up, or positions in any order.
Rows = range | NDArray[np.intp]


class Selection(NamedTuple):
    """The part of an array that an index selects."""

    rows: Rows
    # Of each other axis, a range that goes up.
    inner: list[range]
    # The index that arranges these values as the index says.
    arrange: tuple[Any, ...]


def parse_index(index: Any, shape: tuple[int, ...]) -> Selection:
    """Parses the index of an array, or raises `IndexError`."""
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = [n for n, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1 or len(parts) - len(ellipses) > len(shape):
        raise IndexError(f"Index {index} has more parts than shape {shape} has axes.")
    start = ellipses[0] if ellipses else len(parts)
    missing = len(shape) - (len(parts) - len(ellipses))
    parts[start : start + 1] = [slice(None)] * missing
    rows, arrange_rows = _parse_rows(parts[0], shape[0])
    axes = list(map(_parse_axis, parts[1:], shape[1:], range(1, len(shape))))
    inner = [positions for positions, _ in axes]
    return Selection(rows, inner, (arrange_rows, *(arrange for _, arrange in axes)))


def _parse_rows(part: Any, size: int) -> tuple[Rows, Any]:
    if isinstance(part, list | np.ndarray) and np.ndim(part) == 1:
        return _positions(part, size), slice(None)
    return _parse_axis(part, size, 0)


def _parse_axis(part: Any, size: int, axis: int) -> tuple[range, Any]:
    if isinstance(part, slice):
        positions = range(size)[part]
        if positions.step > 0:
            return positions, slice(None)
        return positions[::-1], slice(None, None, -1)
    try:
        if isinstance(part, bool | np.bool_):
            raise TypeError
        position = range(size)[part]
    except TypeError:
        raise IndexError(
            f"The index of axis {axis} is not supported. Expected integers, slices and "
            "`...`, or for the rows one array of integers or booleans. Received "
            f"{part!r}."
        ) from None
    except IndexError:
        problem = f"{part} is outside of axis {axis}, which has {size}."
        raise IndexError(problem) from None
    return range(position, position + 1), 0


def _positions(part: ArrayLike, size: int) -> NDArray[np.intp]:
    """Returns the positions that an array of integers or booleans selects."""
    array = np.asarray(part)
    if array.dtype == bool and len(array) == size:
        return np.flatnonzero(array)
    if not array.size:
        return np.empty(0, np.intp)
    if array.dtype.kind not in "iu":
        raise IndexError(
            "The index of the rows is not supported. Expected integers, or one boolean "
            f"for each of the {size} rows. Received {len(array)} values of "
            f"{array.dtype}."
        )
    outside = array[(array < -size) | (array >= size)]
    if outside.size:
        raise IndexError(f"{outside[0]} is outside of axis 0, which has {size}.")
    positions = array.astype(np.intp)
    return np.where(positions < 0, positions + size, positions)
