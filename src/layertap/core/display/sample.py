"""A small sample of any array, in memory or on disk, for its picture."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.display.pictures import Picture, as_floats, histogram, maps

_MOST_NUMBERS, _MOST_ROWS = 2_000, 64
# The most bytes that are read of one array.
_MOST_BYTES = 2**22
# The most bytes of all values that are joined in memory.
_MOST_MEMORY = 2**26
# The most values of a display that have pictures, and the seconds that these may take.
_MOST_PICTURES, _SECONDS = 50, 1.0
# A value that is joined of more arrays has no picture.
_MOST_PARTS = 64


def thinned(values: Any) -> Any:
    """Returns some rows of values in memory: joining the parts of those is cheap."""
    row_bytes = sum(value.bytes_per_row or 0 for value in values.plan.values)
    count = min(max(_MOST_MEMORY // max(row_bytes, 1), 1), _MOST_ROWS)
    step = -(-max(values.rows, 1) // count)
    names = (value.address for value in values.plan.stored)
    return type(values)(values.plan, {name: values[name][::step] for name in names})


def histograms(
    arrays: Mapping[str, Any], names: Iterable[str], rows: int
) -> dict[str, Picture]:
    """Returns the histograms of the first arrays, as many as take little time.

    They are said to be of so many rows.
    """
    pictures: dict[str, Picture] = {}
    deadline = time.monotonic() + _SECONDS
    for name, _ in zip(names, range(_MOST_PICTURES), strict=False):
        if time.monotonic() > deadline:
            break
        picture = of_array(partial(arrays.__getitem__, name), rows)
        if picture is not None:
            pictures[name] = picture
    return pictures


def of_array(array: Callable[[], Any], rows: int) -> Picture | None:
    """Returns the histogram of an array; None if it can't be read quickly."""
    # A display shows what it can; reading the values reports damage.
    with suppress(Exception):
        return _histogram(array(), rows)
    return None


def maps_of(array: Any) -> list[Picture]:
    """Returns the maps of the first row of an array that has four axes."""
    with suppress(Exception):
        if array.ndim == 4 and len(array) and 0 < _chunk(array)[1] <= _MOST_BYTES:
            return [*maps(np.asarray(array[:1])[0])]
    return []


def _histogram(array: Any, rows: int) -> Picture | None:
    places = _places(len(array), *_chunk(array))
    if not len(places):
        return None
    flat = np.asarray(array[places]).reshape(-1)
    if flat.size > _MOST_NUMBERS:
        flat = flat[np.random.default_rng(0).integers(0, flat.size, _MOST_NUMBERS)]
    total = rows * int(np.prod(array.shape[1:], dtype=object))
    noun = "absolute values" if flat.dtype.kind == "c" else "numbers"
    return histogram(as_floats(flat), total, noun)


def _chunk(array: Any) -> tuple[int, int]:
    """Returns the rows that are read together, and their bytes; 0 for too many."""
    if isinstance(array, np.ndarray):
        return 1, array[:1].nbytes
    if getattr(array, "leaves", 1) > _MOST_PARTS:
        return 1, 0
    return array.chunk_rows, array.chunk_bytes or 0


def _places(rows: int, chunk_rows: int, chunk_bytes: int) -> NDArray[np.intp]:
    """Returns row numbers, spread evenly over the chunks that may be read."""
    if not rows or not 0 < chunk_bytes <= _MOST_BYTES:
        return np.empty(0, np.intp)
    chunks = -(-rows // chunk_rows)
    count = min(chunks, _MOST_BYTES // chunk_bytes, _MOST_ROWS)
    each = min(chunk_rows, -(-_MOST_ROWS // count))
    starts = np.linspace(0, chunks - 1, count).astype(np.intp) * chunk_rows
    ends = np.minimum(starts + chunk_rows, rows) - 1
    return np.unique(np.linspace(starts, ends, each).astype(np.intp))[:_MOST_ROWS]
