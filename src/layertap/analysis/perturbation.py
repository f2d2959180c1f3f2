"""Saved values at chosen rows, as a head accepts them, with one branch changed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.plan import Join
from layertap.results.saved import Saved
from layertap.results.training.batches import Batches, Examples
from layertap.results.training.row_order import RowOrder

Array = NDArray[Any]

# Bytes that are read at a time.
_READ_BYTES = 2**26
# Values of at most so many bytes stay in memory: each evaluation needs all of them.
_HELD_BYTES = 2**28
_MOST_BATCH_ROWS = 1024


class ChosenRows:
    """Rows of an array, in any order; read when it is indexed."""

    def __init__(self, array: Any, rows: NDArray[np.intp]) -> None:
        self._array, self._rows = array, rows
        self.dtype: np.dtype[Any] = array.dtype
        self.shape: tuple[int, ...] = (len(rows), *array.shape[1:])

    def __getitem__(self, places: Any) -> Array:
        return np.asarray(self._array[self._rows[places]])


class _Packed:
    """Arrays as one matrix: the numbers of their rows in one row.

    Keras handles one matrix as fast as one branch, and hundreds of branches slowly.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        self._arrays = arrays
        self.dtype = _widened(arrays[0].dtype)
        self.shape = (arrays[0].shape[0], sum(map(_units, arrays)))

    def __getitem__(self, places: Any) -> Array:
        parts = [np.asarray(array[places]) for array in self._arrays]
        parts = [part.reshape(len(part), -1) for part in parts]
        return np.concatenate(parts, axis=1).astype(self.dtype, copy=False)


@dataclass
class HeadInputs:
    """The saved values that a head accepts, with labels and weights, at chosen rows.

    Attributes:
        saved: The saved values.
        names: The addresses of those that the head accepts.
        joined: The join that the head accepts as one array, or None if it accepts a
            dictionary by address.
        labels: The labels and the sample weights of all rows; either may be None.
        rows: The chosen rows.
        batch_size: Rows of a batch, or None for 64 MiB, at most 1024 rows.
    """

    saved: Saved
    names: Sequence[str]
    joined: Join | None
    labels: tuple[Any, Any]
    rows: NDArray[np.intp]
    batch_size: int | None

    def __post_init__(self) -> None:
        chosen = {name: ChosenRows(self.saved[name], self.rows) for name in self.names}
        all_bytes = sum(map(row_bytes, chosen.values()))
        held = all_bytes * len(self.rows) <= _HELD_BYTES
        self.arrays: dict[str, Any] = {
            name: array[:] if held else array for name, array in chosen.items()
        }
        self.targets = [
            tree.mapped(lambda array: ChosenRows(array, self.rows), part)
            for part in self.labels
            if part is not None
        ]
        self._packs: dict[str, list[str]] = {}
        for name, array in chosen.items():
            self._packs.setdefault(_widened(array.dtype).name, []).append(name)
        self._order = RowOrder(range(len(self.rows)), self.saved.reader.block_rows)
        fitting = max(1, min(_MOST_BATCH_ROWS, _READ_BYTES // max(all_bytes, 1)))
        # Batches of one size: each further one may be compiled.
        batches = -(-len(self.rows) // fitting)
        self._size = self.batch_size or -(-len(self.rows) // batches)

    def batches(self, changed: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Yields the batches for a head, with other arrays in some places."""
        arrays = {**self.arrays, **changed}
        x = {
            dtype: _Packed([arrays[name] for name in names])
            for dtype, names in self._packs.items()
        }
        examples = Examples((x, *self.targets), self._order)
        batches = Batches(examples, self._size, drop_remainder=False)
        return (batches.batch(number, 0) for number in range(len(batches)))

    def unpack(self, packed: Mapping[str, Any]) -> Any:
        """Returns what the head accepts, of the tensors of one of `batches`."""
        values = {}
        for dtype, names in self._packs.items():
            start = 0
            for name in names:
                end = start + _units(self.arrays[name])
                shape = (-1, *self.arrays[name].shape[1:])
                values[name] = keras.ops.reshape(packed[dtype][:, start:end], shape)
                start = end
        if self.joined is None:
            return {name: values[name] for name in self.names}
        branches = [values[name] for name in self.joined.addresses]
        return keras.ops.concatenate(branches, axis=self.joined.axis)

    def permuted(self, name: str, random: np.random.Generator) -> ChosenRows:
        """Returns a branch whose rows trade places at random."""
        return ChosenRows(self.arrays[name], random.permutation(len(self.rows)))

    def pieces(self, name: str) -> Iterator[Array]:
        """Yields the chosen rows of a value, some at a time."""
        return _pieces(self.arrays[name])

    def finite_rows(self, part: Literal["arrays", "targets"]) -> NDArray[np.bool_]:
        """Returns which rows of the values, or the labels and weights, are finite."""
        finite = np.ones(len(self.rows), np.bool_)
        for array in tree.leaves(getattr(self, part)):
            pieces = [are_finite(piece) for piece in _pieces(array)]
            np.logical_and(finite, np.concatenate(pieces), out=finite)
        return finite


def are_finite(rows: Array) -> NDArray[np.bool_]:
    """Returns which rows have finite numbers only."""
    flat = np.isfinite(rows).reshape(len(rows), -1)
    return np.asarray(flat.all(axis=1), np.bool_)


def row_bytes(array: Any) -> int:
    """Returns the bytes of one row."""
    return int(_units(array) * array.dtype.itemsize)


def _units(array: Any) -> int:
    return math.prod(array.shape[1:])


def _pieces(array: Any) -> Iterator[Array]:
    size = max(1, _READ_BYTES // max(row_bytes(array), 1))
    for start in range(0, array.shape[0], size):
        yield array[start : start + size]


def _widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    # Not every backend accepts NumPy's bfloat16; a head narrows it again.
    return np.dtype(np.float32) if dtype.name == "bfloat16" else dtype
