"""The order of rows: as chosen, or random, block by block."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.errors import check_number

Rows = range | NDArray[np.intp]

# Random orders of this many rows are cached, and of two blocks at least.
_CACHED_ROWS = 2**22


class RowOrder:
    """Rows of a store in an order: as chosen, or random.

    A random order shuffles the store's blocks, and the rows in each block: rows that
    follow each other lie near each other. It follows from the seed and the
    epoch alone, in any process. A block's order is computed when it is needed: the
    order of all rows is never in memory.

    Args:
        rows: A range, or an array of row numbers, also repeated.
        block_rows: The rows of a block.
        shuffle: Whether the order is random.
        seed: Makes the random orders repeatable.
    """

    def __init__(
        self,
        rows: Rows,
        block_rows: int,
        *,
        shuffle: bool = False,
        seed: int | None = None,
    ) -> None:
        check_number("`seed`", seed, 0)
        self.shuffle = shuffle
        self._rows = _sorted(rows) if shuffle else rows
        self._block_rows = block_rows
        self._seed: Any = np.random.SeedSequence(seed).entropy
        if shuffle:
            self._blocks, self._bounds = _blocks_of(self._rows, block_rows)
        # Threads may be in two epochs at the same time.
        self._epochs: LRU[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = LRU(2)
        cached = max(_CACHED_ROWS // block_rows, 2)
        self._cache: LRU[tuple[int, int], NDArray[np.intp]] = LRU(cached)

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, end: int, epoch: int = 0) -> slice | NDArray[np.intp]:
        """Returns the rows at places `start` to `end` of an epoch's order.

        Rows that follow each other in the store are a slice.
        """
        if not self.shuffle:
            part = self._rows[start:end]
            if isinstance(part, range) and part.step == 1:
                return slice(part.start, part.stop)
            return _numbers(part)
        order, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, start, side="right"))
        parts = []
        while start < end:
            first = int(ends[number - 1]) if number else 0
            rows = self._block(int(order[number]), epoch)
            parts.append(rows[start - first : end - first])
            start, number = int(ends[number]), number + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.intp)

    def at(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Returns the rows at some places of the order as chosen."""
        if isinstance(self._rows, range):
            return self._rows.start + places * self._rows.step
        return self._rows[places]

    def blocks(self, epoch: int = 0) -> Iterator[tuple[int, int]]:
        """Yields the blocks in order, each with the place at which its rows end.

        A block is repeated if its rows don't follow each other.
        """
        if self.shuffle:
            order, ends = self._epoch(epoch)
            blocks = self._blocks[order]
        else:
            blocks, bounds = _blocks_of(self._rows, self._block_rows)
            ends = bounds[1:]
        yield from zip(blocks.tolist(), ends.tolist(), strict=True)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns the order of the blocks, and the places at which they end."""
        cached = self._epochs.get(epoch)
        if cached is None:
            order = self._random(epoch).permutation(len(self._blocks))
            cached = order, np.cumsum(np.diff(self._bounds)[order])
            self._epochs.put(epoch, cached)
        return cached

    def _block(self, block: int, epoch: int) -> NDArray[np.intp]:
        """Returns the rows of a block in their order."""
        key = epoch, block
        rows = self._cache.get(key)
        if rows is None:
            start, end = int(self._bounds[block]), int(self._bounds[block + 1])
            places = self._random(epoch, block).permutation(end - start)
            rows = _numbers(self._rows[start:end])[places]
            self._cache.put(key, rows)
        return rows

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))


def _numbers(rows: Rows) -> NDArray[np.intp]:
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, rows.step)
    return rows


def _sorted(rows: Rows) -> Rows:
    if isinstance(rows, range):
        return rows if rows.step > 0 else rows[::-1]
    return np.sort(rows)


def _blocks_of(rows: Rows, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the blocks of rows, and the place at which each begins, with the end."""
    if isinstance(rows, range) and 0 < rows.step <= size:
        first = rows[0] // size if rows else 0
        last = rows[-1] // size + 1 if rows else 0
        blocks = np.arange(first, last)
        # The first row of the range that is not before the block.
        starts = -((rows.start - blocks * size) // rows.step)
        return blocks, np.append(np.maximum(starts, 0), len(rows))
    block_of_row = _numbers(rows) // size
    changes = np.flatnonzero(np.diff(block_of_row)) + 1
    starts = np.concatenate([[0], changes]) if len(block_of_row) else changes
    return block_of_row[starts], np.append(starts, len(block_of_row))
