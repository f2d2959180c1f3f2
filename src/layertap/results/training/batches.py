"""Batches of what is trained on, read from a store in pieces of many."""

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.lru import LRU
from layertap.errors import OptionError
from layertap.results.joined_array import JoinedArray
from layertap.results.training import selection
from layertap.results.training.row_order import Order

if TYPE_CHECKING:
    from layertap.results.saved import Saved

Arrays = list[NDArray[Any]]
Index = slice | NDArray[np.intp]

# Read at a time, of small rows. About as much as the processor holds close.
_PIECE_BYTES = 2**20
# What is chosen is kept in memory if all of it is no more than this, ...
_KEPT_BYTES = 2**26
# ... else so many pieces: workers are not always in the same.
_KEPT_PIECES = 4
# Batches are asked for in order if this is how far they are apart, at most.
_NEAR = 16


class Examples:
    """Values of a store with labels and sample weights, in an order.

    Args:
        saved: The store.
        before: As of `Saved.dataset`, and so the others.
        outputs: Which outputs.
        joined: Whether they are one array.
        rows: Which rows.
        labels: Which labels.
        sample_weight: Which sample weights.
        shuffle: Whether they are in random order.
        seed: Of that.

    Attributes:
        order: The order.
        row_bytes: The bytes of a row.
    """

    def __init__(
        self,
        saved: "Saved",
        before: selection.Globs = None,
        *,
        outputs: selection.Globs = None,
        joined: bool = False,
        rows: Any = None,
        labels: Any = True,
        sample_weight: Any = True,
        shuffle: bool = False,
        seed: int | None = None,
    ) -> None:
        names = selection.values(saved.plan, before, outputs)
        x: Any = {name: saved[name] for name in names}
        if joined:
            branches, axis = selection.joined_values(saved.plan, names)
            x = JoinedArray([saved[name] for name in branches], axis)
        parts: tuple[Any, ...] = (x,)
        for part in selection.labels_and_weights(saved, labels, sample_weight):
            parts += () if part is None else (part,)
        found = {id(array): array for array in tree.leaves(parts)}
        places = {key: place for place, key in enumerate(found)}
        # Each array is read once, wherever it stands.
        self._arrays = list(found.values())
        self._form = tree.mapped(lambda array: places[id(array)], parts)
        self.row_bytes = sum(
            max(array.dtype.itemsize * int(np.prod(array.shape[1:])), 1)
            for array in self._arrays
        )
        self.order = Order(
            selection.rows_of(rows, saved.rows),
            saved.reader.block_rows,
            shuffle=shuffle,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.order)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays on disk: `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
        return self.formed(self._arrays)

    def read(self, rows: Index) -> Arrays:
        """Reads rows of the store, for `formed`."""
        return [array[rows] for array in self._arrays]

    def formed(self, arrays: list[Any]) -> tuple[Any, ...]:
        """Returns what was read as `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
        found: tuple[Any, ...] = tree.mapped(arrays.__getitem__, self._form)
        return found


class Batches:
    """Examples in batches, any of which can be had at any time, by any thread.

    Small batches are read some at a time, in one piece, and cut from it.

    Args:
        examples: The examples.
        size: Rows per batch.
        drop_remainder: Whether a last batch that has fewer is left out.

    Raises:
        OptionError: If the size is none, or no batch is left.
    """

    def __init__(self, examples: Examples, size: int, drop_remainder: bool) -> None:
        self.size = operator.index(size)
        if self.size < 1:
            raise OptionError(f"A batch has at least 1 row; found batch_size={size}.")
        self.examples = examples
        self._rows = len(examples)
        if drop_remainder:
            self._rows -= self._rows % self.size
        if not self._rows:
            raise OptionError(
                f"There are {len(examples)} rows: with drop_remainder=True, not one "
                f"batch of {self.size} is left. Pass a smaller batch_size."
            )
        # Batches in a piece.
        many = max(_PIECE_BYTES // (self.size * examples.row_bytes), 1)
        self._many = min(many, len(self))
        pieces = -(-len(self) // self._many)
        self._all = len(examples) * examples.row_bytes <= _KEPT_BYTES
        self._pieces: LRU[tuple[int, int], Arrays] = LRU(
            pieces if self._all else _KEPT_PIECES
        )
        self._last = -1

    def __len__(self) -> int:
        return -(-self._rows // self.size)

    def batch(self, number: int, epoch: int) -> tuple[Any, ...]:
        """Returns a batch, in memory of its own.

        Args:
            number: Which, from 0 on.
            epoch: Of which of the random orders.

        Raises:
            IndexError: If there are not so many.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"Batch {number} of {len(self)}.")
        piece, within = divmod(number, self._many)
        arrays = None
        if self._many > 1:
            arrays = self._piece(piece, number, epoch)
        if arrays is None:
            arrays = self._read(number, 1, epoch)
        else:
            cut = slice(within * self.size, (within + 1) * self.size)
            arrays = [array[cut].copy() for array in arrays]
        return self.examples.formed(arrays)

    def pieces(self, epoch: int) -> Iterator[tuple[Any, ...]]:
        """Yields all batches in order, some of them together.

        Args:
            epoch: Of which of the random orders.
        """
        for number in range(0, len(self), self._many):
            yield self.examples.formed(self._read(number, self._many, epoch))

    def _piece(self, piece: int, number: int, epoch: int) -> Arrays | None:
        """Returns the piece that a batch is in, if it is worth while to read it."""
        key = epoch if self.examples.order.shuffle else 0, piece
        arrays = self._pieces.get(key)
        near = abs(number - self._last) <= _NEAR
        self._last = number
        if arrays is None and (self._all or near):
            arrays = self._read(piece * self._many, self._many, epoch)
            self._pieces.put(key, arrays)
        return arrays

    def _read(self, number: int, many: int, epoch: int) -> Arrays:
        start = number * self.size
        end = min(start + many * self.size, self._rows)
        return self.examples.read(self.examples.order.rows(start, end, epoch))
