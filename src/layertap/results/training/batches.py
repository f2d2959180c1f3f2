"""Batches of examples, read from a store in pieces of many batches."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.lru import LRU
from layertap.errors import OptionError, check_number
from layertap.results.training.row_order import RowOrder

Arrays = list[NDArray[Any]]

# Bytes of small batches that are read together: about what a processor's cache holds.
_PIECE_BYTES = 2**20
# If all examples take no more bytes than this, all pieces are cached, ...
_CACHED_BYTES = 2**26
# ... else this many: workers are not always in the same one.
_CACHED_PIECES = 4
# Batches whose numbers differ by no more than this are requested in order.
_NEAR = 16


class Examples:
    """Rows of arrays in an order, as Keras takes them.

    Args:
        parts: `(x,)`, `(x, y)` or `(x, y, sample_weight)`: structures of arrays that
            can be indexed by rows. Each array is read once, also if it occurs twice.
        order: Which rows, and in which order.
    """

    def __init__(self, parts: tuple[Any, ...], order: RowOrder) -> None:
        arrays = {id(array): array for array in tree.leaves(parts)}
        places = {key: place for place, key in enumerate(arrays)}
        self.parts, self.order = parts, order
        self._arrays = list(arrays.values())
        self._structure = tree.mapped(lambda array: places[id(array)], parts)
        self.row_bytes = sum(
            max(array.dtype.itemsize * int(np.prod(array.shape[1:])), 1)
            for array in self._arrays
        )

    def __len__(self) -> int:
        return len(self.order)

    def read(self, rows: slice | NDArray[np.intp]) -> Arrays:
        """Reads each array at some rows."""
        return [array[rows] for array in self._arrays]

    def assemble(self, arrays: list[Any]) -> tuple[Any, ...]:
        """Returns what `read` gave in the structure of `parts`."""
        return tree.mapped(arrays.__getitem__, self._structure)


class Batches:
    """Examples in batches; any thread may request any batch at any time."""

    def __init__(self, examples: Examples, size: int, drop_remainder: bool) -> None:
        check_number("`batch_size`", size, 1)
        self.size = int(size)
        self.examples = examples
        self._rows = len(examples)
        if drop_remainder:
            self._rows -= self._rows % self.size
        if not self._rows:
            raise OptionError(
                f"With drop_remainder=True, {len(examples)} rows do not fill one batch "
                f"of {self.size}. Pass a smaller batch_size."
            )
        batches = max(_PIECE_BYTES // (self.size * examples.row_bytes), 1)
        self._piece_batches = min(batches, len(self))
        self._cache_all = len(examples) * examples.row_bytes <= _CACHED_BYTES
        pieces = -(-len(self) // self._piece_batches)
        cached = pieces if self._cache_all else _CACHED_PIECES
        self._cache: LRU[tuple[int, int], Arrays] = LRU(cached)
        self._last = -1

    def __len__(self) -> int:
        return -(-self._rows // self.size)

    def batch(self, number: int, epoch: int) -> tuple[Any, ...]:
        """Returns a batch in memory of its own; each epoch has its random order."""
        if not 0 <= number < len(self):
            raise IndexError(f"Batch {number} is out of range: there are {len(self)}.")
        arrays = self._piece_of(number, epoch) if self._piece_batches > 1 else None
        if arrays is None:
            arrays = self._read(number, 1, epoch)
        else:
            start = number % self._piece_batches * self.size
            arrays = [array[start : start + self.size].copy() for array in arrays]
        return self.examples.assemble(arrays)

    def pieces(self, epoch: int) -> Iterator[tuple[Any, ...]]:
        """Yields all batches in order, several concatenated."""
        for number in range(0, len(self), self._piece_batches):
            arrays = self._read(number, self._piece_batches, epoch)
            yield self.examples.assemble(arrays)

    def _piece_of(self, number: int, epoch: int) -> Arrays | None:
        """Returns the piece with a batch, or None if reading all of it doesn't pay."""
        piece = number // self._piece_batches
        key = epoch if self.examples.order.shuffle else 0, piece
        arrays = self._cache.get(key)
        near = abs(number - self._last) <= _NEAR
        self._last = number
        if arrays is None and (self._cache_all or near):
            first = piece * self._piece_batches
            arrays = self._read(first, self._piece_batches, epoch)
            self._cache.put(key, arrays)
        return arrays

    def _read(self, number: int, count: int, epoch: int) -> Arrays:
        start = number * self.size
        end = min(start + count * self.size, self._rows)
        return self.examples.read(self.examples.order.rows(start, end, epoch))
