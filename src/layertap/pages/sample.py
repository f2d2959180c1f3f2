"""A bounded sample of the rows of a store, the same for all values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.results.saved import Saved

Rows = NDArray[np.intp]

# Rows are read in runs: chunks have many rows, and each costs a reading.
_RUNS = 16
_MOST_ROWS = 1024
# Bytes of all values together, and of the rows of one value in 64 bits.
_MOST_BYTES, _MOST_WIDE = 2**28, 2**27


def sample_rows(saved: Saved, names: Sequence[str]) -> Rows:
    """Returns numbers of rows in runs that are spread evenly over the store."""
    sizes = [_row_numbers(saved[name]) for name in names]
    together = sum(
        size * saved[name].dtype.itemsize
        for size, name in zip(sizes, names, strict=True)
    )
    fitting = min(_MOST_BYTES // max(together, 1), _MOST_WIDE // (8 * max(sizes)))
    count = max(min(saved.rows, _MOST_ROWS, fitting), min(saved.rows, 1))
    if count >= saved.rows:
        return np.arange(saved.rows, dtype=np.intp)
    runs = min(_RUNS, count)
    lengths = [count // runs + (run < count % runs) for run in range(runs)]
    starts = np.linspace(0, saved.rows - lengths[-1], runs).astype(np.intp)
    pairs = zip(starts.tolist(), lengths, strict=True)
    parts = [np.arange(start, start + length, dtype=np.intp) for start, length in pairs]
    return np.unique(np.concatenate(parts))


def read(saved: Saved, name: str, rows: Rows) -> NDArray[np.float64]:
    """Returns rows of a value as vectors in 64 bits; a complex number is two."""
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    runs = [run for run in np.split(rows, ends) if len(run)]
    array: Any = saved[name]
    parts = [array[int(run[0]) : int(run[-1]) + 1] for run in runs]
    found = np.concatenate(parts) if parts else array[:0]
    if found.dtype.kind == "c":
        found = np.stack([found.real, found.imag], axis=-1)
    with np.errstate(all="ignore"):
        wide = found.astype(np.float64)
    return wide.reshape(len(rows), int(np.prod(found.shape[1:])))


def _row_numbers(array: Any) -> int:
    parts = 2 if array.dtype.kind == "c" else 1
    return max(int(np.prod(array.shape[1:])) * parts, 1)
