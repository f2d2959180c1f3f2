"""Saved values of some rows, as a head takes them, with one branch changed."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.plan import Join
from layertap.results.saved import Saved

Array = NDArray[Any]
# What becomes of a branch in some of the chosen rows, by their places among them.
Changed = Callable[[NDArray[np.intp]], Array]

# What is read at a time.
_READ_BYTES = 2**26


class Reading:
    """Saved values of chosen rows, as a head takes them.

    Args:
        saved: The saved values.
        names: The addresses of those that the head takes.
        joined: The join that the head takes as one array, or None if it takes a
            dictionary by address.
        labels: The labels and the sample weights, or None, of all rows.
        rows: The chosen rows.
        batch_size: Rows of a batch, or None for as many as are some MiB.
    """

    def __init__(
        self,
        saved: Saved,
        names: Sequence[str],
        joined: Join | None,
        labels: tuple[Any, Any],
        rows: NDArray[np.intp],
        batch_size: int | None,
    ) -> None:
        self.saved = saved
        self.names = names
        self.rows = rows
        self._joined = joined
        self._labels = labels
        row_bytes = sum(self.row_bytes(name) for name in names)
        fitting = max(1, min(1024, _READ_BYTES // max(row_bytes, 1)))
        self.batch_size = fitting if batch_size is None else batch_size

    def row_bytes(self, name: str) -> int:
        """Returns the bytes of one row of a value."""
        array = self.saved[name]
        return math.prod(array.shape[1:]) * array.dtype.itemsize

    def batch(self, number: int, name: str, changed: Changed | None) -> tuple[Any, ...]:
        """Returns inputs, labels and weights of a batch.

        Args:
            number: Which batch.
            name: The value that is changed.
            changed: How, or None if it is not.
        """
        at = np.arange(len(self.rows))[
            number * self.batch_size : (number + 1) * self.batch_size
        ]
        rows = self.rows[at]
        arrays = {each: self.saved[each][rows] for each in self.names}
        if changed is not None:
            arrays[name] = changed(at)
        values = {each: _wide(array) for each, array in arrays.items()}
        inputs: Any = values
        if self._joined is not None:
            parts = [values[branch.address] for branch in self._joined.branches]
            inputs = np.concatenate(parts, self._joined.axis)

        def of(array: Any) -> Array:
            return np.asarray(array[rows])

        given = [part for part in self._labels if part is not None]
        return (inputs, *(tree.mapped(of, part) for part in given))

    def pieces(self, name: str) -> Iterator[Array]:
        """Yields the chosen rows of a value, some at a time."""
        size = max(1, _READ_BYTES // max(self.row_bytes(name), 1))
        for start in range(0, len(self.rows), size):
            yield self.saved[name][self.rows[start : start + size]]


class Batches(keras.utils.PyDataset):
    """Batches of saved values, with one branch changed.

    Args:
        read: The values.
        name: The value that is changed.
        changed: How, or None if it is not.
    """

    def __init__(self, read: Reading, name: str, changed: Changed | None) -> None:
        super().__init__()
        self._read, self._name, self._changed = read, name, changed

    def __len__(self) -> int:
        return -(-len(self._read.rows) // self._read.batch_size)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        return self._read.batch(number, self._name, self._changed)


def permuted(read: Reading, name: str, random: np.random.Generator) -> Changed:
    """Returns what permutes a branch between rows, at random."""
    other = read.rows[random.permutation(len(read.rows))]
    return lambda at: read.saved[name][other[at]]


def constant(value: Array) -> Changed:
    """Returns what gives each row the same branch."""
    return lambda at: np.repeat(value[None], len(at), axis=0)


def _wide(array: Array) -> Array:
    # Not every backend takes NumPy's bfloat16; a head narrows it again.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
