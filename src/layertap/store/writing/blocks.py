"""Blocks of rows on their way to the disk: written in the background, in order."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Thread
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from layertap.errors import OptionError, StoreError
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.shard_encoder import ShardEncoder
from layertap.store.location.base import Location
from layertap.store.storage.errors import write_error

# Looks at rows that are on their way: is given the number of the first one, and by
# array the rows, which are good until it returns and not to be written to.
Observer = Callable[[int, Mapping[str, NDArray[Any]]], None]


Forms = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


def fitting(
    values: Mapping[str, NDArray[Any]], forms: Forms
) -> tuple[int, dict[str, NDArray[Any]]]:
    """Returns how many rows there are, and the rows, if they fit.

    Args:
        values: By array, rows.
        forms: By array, the shape of one row and the dtype.

    Raises:
        OptionError: If these are not all the arrays, or not of their shapes and dtypes.
    """
    if values.keys() != forms.keys():
        missing = sorted(forms.keys() - values.keys())
        unknown = sorted(values.keys() - forms.keys())
        raise OptionError(
            "Rows of all arrays of the store are needed, and of no other; "
            f"missing: {missing}, unknown: {unknown}."
        )
    arrays = {name: np.asarray(values[name]) for name in forms}
    for name, array in arrays.items():
        shape, dtype = forms[name]
        # A number has no rows, and the `shape[1:]` of rows of one number each.
        if array.shape[1:] != shape or array.dtype != dtype or not array.ndim:
            raise OptionError(
                f"{name} takes rows of shape {shape} and dtype {dtype}; found an "
                f"array of shape {array.shape} and dtype {array.dtype}."
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise OptionError(f"All arrays need the same number of rows: {counts}.")
    return next(iter(counts.values())), arrays


@dataclass
class Block:
    """Some rows of all arrays, in memory.

    Args:
        first: The row of the store that its first row is.
        values: By array, room for all rows of a block; empty once it was committed
            full.
        filled: How many rows it has so far.
    """

    first: int
    values: dict[str, NDArray[Any]]
    filled: int = 0

    @classmethod
    def empty(cls, first: int, layouts: Sequence[ArrayLayout]) -> Self:
        """Returns a block without rows.

        Args:
            first: The row of the store that its first row is to be.
            layouts: The arrays.
        """
        # Not zeros: what is never touched takes no memory.
        values = {
            layout.spec.path: np.empty(
                (layout.block_rows, *layout.spec.shape), layout.spec.numpy_dtype
            )
            for layout in layouts
        }
        return cls(first, values)

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Copies rows to the end.

        Args:
            rows: By array, as many rows as there is room for at most.

        Raises:
            OptionError: If these are not all the arrays, or not of their shapes and
                dtypes. No row is added then.
        """
        forms = {
            name: (part.shape[1:], part.dtype) for name, part in self.values.items()
        }
        count, checked = fitting(rows, forms)
        self.add(checked, count)

    def add(self, rows: Mapping[str, NDArray[Any]], count: int) -> None:
        """Copies rows to the end that are known to fit.

        Args:
            rows: By array, the rows.
            count: How many.
        """
        room = slice(self.filled, self.filled + count)
        for name, array in rows.items():
            self.values[name][room] = array
        # Last, so that an interrupt leaves whole rows only.
        self.filled += count

    def end_with_zeros(self, layouts: Sequence[ArrayLayout]) -> None:
        """Fills up the last chunk, which is written whole.

        Args:
            layouts: The arrays.
        """
        for layout in layouts:
            end = -(-self.filled // layout.chunk_rows) * layout.chunk_rows
            self.values[layout.spec.path][self.filled : end] = 0

    @property
    def end(self) -> int:
        """The row of the store after its last one."""
        return self.first + self.filled


class BlockWriter:
    """Writes blocks in the background, and commits them in order.

    A block that was handed over belongs to the writer, until it was committed: then its
    memory is given out again. Only one that was not full may be added to, after `wait`,
    and be handed over again.

    Args:
        at: The location of the store.
        layouts: Its arrays, all with the same number of rows.
        observer: Looks at each block when it is full, once and in order, while it is
            being written; at one that is not full, when it is told to.
    """

    def __init__(
        self,
        at: Location,
        layouts: Sequence[ArrayLayout],
        observer: Observer | None = None,
    ) -> None:
        self.committed = layouts[0].rows
        self.bytes_written = 0
        self._location = at
        self._layouts = list(layouts)
        self._block_rows = layouts[0].block_rows
        self._thread = ThreadPoolExecutor(1, "layertap-store")
        self._pending: deque[Future[None]] = deque()
        self._free: deque[dict[str, NDArray[Any]]] = deque()
        self._observer = observer
        # Beside the other one, which waits for the disk much of the time.
        self._observing = ThreadPoolExecutor(1, "layertap-observe")
        self._observed = 0
        self._failure: StoreError | None = None
        self._failure_told = False

    def room(self, first: int) -> Block:
        """Returns a block without rows.

        Args:
            first: The row of the store that its first row is to be.
        """
        if self._free:
            return Block(first, self._free.popleft())
        return Block.empty(first, self._layouts)

    def submit(self, block: Block) -> None:
        """Starts to write a block, to be committed after all before it."""
        if block.filled < self._block_rows:
            block.end_with_zeros(self._layouts)
        self._pending.append(self._thread.submit(self._commit, block, block.filled))

    def _commit(self, block: Block, filled: int) -> None:
        """Writes a block, and has it looked at meanwhile if it is full."""
        if self._failure is not None or not block.values:
            # It may come again, after an interrupt.
            return
        observing: list[Future[None]] = []
        try:
            if filled == self._block_rows and self._observer is not None:
                observing.append(self._observing.submit(self._observe, block))
            try:
                self._write(block, filled)
            finally:
                # It looks at the block's memory.
                wait(observing)
            for observed in observing:
                observed.result()
            if filled == self._block_rows:
                values, block.values = block.values, {}
                self._free.append(values)
        except Exception as error:
            self._fail(error)

    def _write(self, block: Block, filled: int) -> None:
        """Writes the shards of a block, then makes its rows count."""
        number = block.first // self._block_rows
        rows = block.first + filled
        written = [
            ShardEncoder(block.values[layout.spec.path], filled, layout)
            for layout in self._layouts
        ]
        shards = [layout.shard_file(number) for layout in self._layouts]
        self._location.storage.replace(dict(zip(shards, written, strict=True)))
        if self._failure is not None:
            return
        layouts = [
            layout.committed(number, rows, contents.digest)
            for layout, contents in zip(self._layouts, written, strict=True)
        ]
        self._location.commit(layouts)
        self._layouts = layouts
        self.committed = max(self.committed, rows)
        self.bytes_written += sum(contents.size for contents in written)

    def observe(self, block: Block) -> None:
        """Has a block looked at that is not full, for no more rows are to come.

        Raises:
            StoreError: If what looks at it fails, or a block could not be written.
        """
        self._pending.append(self._thread.submit(self._observe_last, block))
        self.wait()

    def _observe_last(self, block: Block) -> None:
        try:
            self._observe(block)
        except Exception as error:
            self._fail(error)

    def _observe(self, block: Block) -> None:
        if self._observer is not None and self._observed < block.end:
            rows = {name: part[: block.filled] for name, part in block.values.items()}
            self._observer(block.first, rows)
            self._observed = block.end

    def _fail(self, error: Exception) -> None:
        """Keeps an error of any kind: in this thread, nobody else would tell it."""
        if self._failure is None:
            self._failure = write_error(error, self._location.storage, self.committed)

    def wait(self, most: int = 0) -> None:
        """Waits until at most so many blocks are on their way.

        Raises:
            StoreError: If a block could not be written.
        """
        while len(self._pending) > most:
            self._pending[0].result()
            self._pending.popleft()
        if not most:
            # One may be on its way that an interrupt kept from being noted.
            self._thread.submit(int).result()
        self.check()

    def check(self) -> None:
        """Raises what went wrong in the background, if anything did.

        Raises:
            StoreError: If a block could not be written.
        """
        if self._failure is not None:
            self._failure_told = True
            raise self._failure

    def abandon(self, then: Callable[[], None]) -> None:
        """Commits nothing more; what is being written is left to end by itself.

        Args:
            then: Called when it has, in a thread of its own.
        """
        self._failure = self._failure or StoreError(
            f"Writing {self._location.storage} was given up. Do the same again."
        )
        self._failure_told = True

        def end() -> None:
            self._wait_for_all()
            then()

        Thread(target=end, name="layertap-end").start()

    def close(self) -> None:
        """Waits for all blocks.

        Raises:
            StoreError: If one could not be written, and nothing was raised yet.
        """
        self._wait_for_all()
        self._thread.shutdown(wait=False)
        self._observing.shutdown(wait=False)
        if not self._failure_told:
            self.check()

    def _wait_for_all(self) -> None:
        # Not by joining the thread: once that was interrupted, Python 3.11 takes the
        # thread for ended.
        wait(list(self._pending))
