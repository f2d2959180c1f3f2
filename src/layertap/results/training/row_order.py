"""In which order rows are gone through, also in random order, block by block."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.errors import OptionError

Rows = range | NDArray[np.intp]

# The random order of so many rows is cached, of two blocks at least.
_CACHED_ROWS = 2**22


class Order:
    """Rows of a store in an order of their own: as given, or in random order.

    A random order goes through the store's blocks in random order, and through the
    rows of each in random order, so that what is read lies near. It follows from the
    seed and the number of the epoch alone, and that of a block is made when the block
    is needed: any part of it can be had at any time, in any process, and however many
    rows there are, no order of all of them is held.

    Args:
        rows: Which rows, any of them more than once: a range, or an array of numbers.
        block_rows: The rows of a block.
        shuffle: Whether the order is random.
        seed: For the same random orders again.
    """

    def __init__(
        self,
        rows: Rows,
        block_rows: int,
        *,
        shuffle: bool = False,
        seed: int | None = None,
    ) -> None:
        self.shuffle = shuffle
        self._rows = _rising(rows) if shuffle else rows
        self._block_rows = block_rows
        seeds = np.random.SeedSequence(_checked(seed))
        self._seed: Any = seeds.entropy
        if shuffle:
            # Where each block begins among the rows, with the end.
            self._blocks, self._begins = _blocks(self._rows, block_rows)
        # Threads may be in two epochs, one after the other.
        self._epochs: LRU[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = LRU(2)
        self._orders: LRU[tuple[int, int], NDArray[np.intp]] = LRU(
            max(_CACHED_ROWS // block_rows, 2)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int, end: int, epoch: int = 0) -> slice | NDArray[np.intp]:
        """Returns the rows from one place of the order to another, as an index.

        Args:
            start: The first place.
            end: The place after the last one.
            epoch: Which of the random orders.

        Returns:
            A slice where the rows follow each other, else an array.
        """
        if not self.shuffle:
            part = self._rows[start:end]
            if isinstance(part, range) and part.step == 1:
                return slice(part.start, part.stop)
            return _numbers(part)
        order, ends = self._of_epoch(epoch)
        first = int(np.searchsorted(ends, start, side="right"))
        parts = []
        while start < end:
            begin = int(ends[first - 1]) if first else 0
            within = self._of_block(int(order[first]), epoch)
            parts.append(within[start - begin : end - begin])
            start, first = int(ends[first]), first + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.intp)

    def at(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Returns the rows at some places, without shuffling.

        Args:
            places: Which places.
        """
        if isinstance(self._rows, range):
            return self._rows.start + places * self._rows.step
        return self._rows[places]

    def blocks(self, epoch: int = 0) -> Iterator[tuple[int, int]]:
        """Yields the blocks in order, each with the place at which its rows end.

        A block is yielded again if its rows don't follow each other.

        Args:
            epoch: Which of the random orders.
        """
        if self.shuffle:
            order, ends = self._of_epoch(epoch)
            yield from zip(self._blocks[order].tolist(), ends.tolist(), strict=True)
            return
        blocks, begins = _blocks(self._rows, self._block_rows)
        yield from zip(blocks.tolist(), begins[1:].tolist(), strict=True)

    def _of_epoch(self, epoch: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns the order of the blocks, and the places at which each ends."""
        found = self._epochs.get(epoch)
        if found is None:
            order = self._random(epoch).permutation(len(self._blocks))
            found = order, np.cumsum(np.diff(self._begins)[order])
            self._epochs.put(epoch, found)
        return found

    def _of_block(self, block: int, epoch: int) -> NDArray[np.intp]:
        """Returns the rows of a block in their order."""
        key = epoch, block
        found = self._orders.get(key)
        if found is None:
            begin, end = int(self._begins[block]), int(self._begins[block + 1])
            places = self._random(epoch, block).permutation(end - begin)
            found = _numbers(self._rows[begin:end])[places]
            self._orders.put(key, found)
        return found

    def _random(self, *of: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=of))


def _numbers(rows: Rows) -> NDArray[np.intp]:
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, rows.step)
    return rows


def _checked(seed: int | None) -> int | None:
    if seed is None or (isinstance(seed, int | np.integer) and seed >= 0):
        return None if seed is None else int(seed)
    raise OptionError(f"A seed is a whole number from 0 on, or None; found {seed!r}.")


def _rising(rows: Rows) -> Rows:
    """Returns the same rows from the first of the store to the last."""
    if isinstance(rows, range):
        return rows if rows.step > 0 else rows[::-1]
    return np.sort(rows)


def _blocks(rows: Rows, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns in which blocks rows are, and where each begins, with the end.

    Args:
        rows: The rows.
        size: The rows of a block.
    """
    if isinstance(rows, range) and 0 < rows.step <= size:
        first = rows[0] // size if rows else 0
        last = rows[-1] // size + 1 if rows else 0
        blocks = np.arange(first, last)
        # The first of the rows that is not before the block.
        begins = -((rows.start - blocks * size) // rows.step)
        return blocks, np.append(np.maximum(begins, 0), len(rows))
    of_rows = _numbers(rows) // size
    changes = np.flatnonzero(np.diff(of_rows)) + 1
    begins = np.concatenate([[0], changes]) if len(of_rows) else np.empty(0, np.intp)
    return of_rows[begins], np.append(begins, len(of_rows))
