"""Saved values at chosen rows, as a head accepts them, with one branch changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.plan import Join
from layertap.results.saved import Saved
from layertap.results.training.batches import Batches, Examples
from layertap.results.training.keras import SavedDataset
from layertap.results.training.row_order import RowOrder

Array = NDArray[Any]

# Bytes that are read at a time.
_READ_BYTES = 2**26
_MOST_BATCH_ROWS = 1024


class ChosenRows:
    """Rows of an array, in any order; read when it is indexed."""

    def __init__(self, array: Any, rows: NDArray[np.intp]) -> None:
        self._array, self._rows = array, rows
        self.dtype: np.dtype[Any] = array.dtype
        self.shape: tuple[int, ...] = (len(rows), *array.shape[1:])
        self.row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def __getitem__(self, places: Any) -> Array:
        return np.asarray(self._array[self._rows[places]])


@dataclass
class HeadInputs:
    """The saved values that a head accepts, with labels and weights, at chosen rows.

    Attributes:
        saved: The saved values.
        names: The addresses of those that the head accepts.
        joined: The join that the head accepts as one array, or None if it accepts a
            dictionary by address.
        targets: The labels and the sample weights of all rows; either may be None.
        rows: The chosen rows.
        batch_size: Rows of a batch, or None for 64 MiB, at most 1024 rows.
    """

    saved: Saved
    names: Sequence[str]
    joined: Join | None
    targets: tuple[Any, Any]
    rows: NDArray[np.intp]
    batch_size: int | None

    def __post_init__(self) -> None:
        self.arrays = {
            name: ChosenRows(self.saved[name], self.rows) for name in self.names
        }
        self._targets = [
            tree.mapped(lambda array: ChosenRows(array, self.rows), part)
            for part in self.targets
            if part is not None
        ]
        self._order = RowOrder(range(len(self.rows)), self.saved.reader.block_rows)
        row_bytes = sum(array.row_bytes for array in self.arrays.values())
        fitting = max(1, min(_MOST_BATCH_ROWS, _READ_BYTES // max(row_bytes, 1)))
        self._size = self.batch_size or fitting

    def dataset(self, changed: Mapping[str, Any]) -> SavedDataset:
        """Returns the batches for `evaluate`, with other arrays in some places."""
        examples = Examples(({**self.arrays, **changed}, *self._targets), self._order)
        batches = Batches(examples, self._size, drop_remainder=False)
        return _HeadDataset(batches, self.joined)

    def permuted(self, name: str, random: np.random.Generator) -> ChosenRows:
        """Returns a branch whose rows trade places at random."""
        rows = self.rows[random.permutation(len(self.rows))]
        return ChosenRows(self.saved[name], rows)

    def pieces(self, name: str) -> Iterator[Array]:
        """Yields the chosen rows of a value, some at a time."""
        array = self.arrays[name]
        size = max(1, _READ_BYTES // max(array.row_bytes, 1))
        for start in range(0, len(self.rows), size):
            yield array[start : start + size]


class _HeadDataset(SavedDataset):
    def __init__(self, batches: Batches, joined: Join | None) -> None:
        super().__init__(batches)
        self._joined = joined

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        values, *targets = super().__getitem__(index)
        x: Any = {name: _widened(array) for name, array in values.items()}
        if self._joined is not None:
            branches = [x[name] for name in self._joined.addresses]
            x = np.concatenate(branches, self._joined.axis)
        return (x, *targets)


def _widened(array: Array) -> Array:
    # Not every backend accepts NumPy's bfloat16; a head narrows it again.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
