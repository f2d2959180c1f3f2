"""Blocks of rows on their way to the disk: written in the background, in order."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from layertap.errors import OptionError, StoreError
from layertap.store.format import digests
from layertap.store.format.layout import ArrayLayout, Layouts
from layertap.store.format.shard import ShardEncoder
from layertap.store.location.base import Location
from layertap.store.reading.array import open_shards
from layertap.store.reading.local_shards import shard_cache
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import write_error

# Receives the number of the first row and, by array, the rows of a block. They are
# valid until it returns, and read-only. Its thread ends with the block, or at the
# latest with the writer.
Observer = Callable[[int, Mapping[str, NDArray[Any]]], None]


def check_rows(
    values: Mapping[str, NDArray[Any]], layouts: Layouts
) -> tuple[int, dict[str, NDArray[Any]]]:
    """Returns the number of rows and the rows; raises OptionError if they misfit."""
    specs = {layout.spec.path: layout.spec for layout in layouts}
    if values.keys() != specs.keys():
        missing = sorted(specs.keys() - values.keys())
        unknown = sorted(values.keys() - specs.keys())
        raise OptionError(
            "The rows are not those of all arrays of the store. Missing: "
            f"{missing}. Unknown: {unknown}."
        )
    arrays = {name: np.asarray(values[name]) for name in specs}
    for name, array in arrays.items():
        shape, dtype = specs[name].shape, specs[name].numpy_dtype
        # A number has no rows, but the same `shape[1:]` as rows of one number each.
        if array.shape[1:] != shape or array.dtype != dtype or not array.ndim:
            raise OptionError(
                f"The rows of {name} do not fit. Expected rows of shape {shape} and "
                f"dtype {dtype}. Received an array of shape {array.shape} and dtype "
                f"{array.dtype}."
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise OptionError(f"All arrays need the same number of rows: {counts}.")
    return next(iter(counts.values())), arrays


@dataclass
class Block:
    """Some rows of all arrays, in memory.

    Args:
        first: The number of its first row in the store.
        layouts: Those of the arrays.
        values: By array, memory for all rows of a block; empty once a full block was
            committed.
        filled: How many rows it has so far.
    """

    first: int
    layouts: Layouts
    values: dict[str, NDArray[Any]]
    filled: int = 0

    @classmethod
    def empty(cls, first: int, layouts: Layouts) -> Self:
        """Returns a block without rows."""
        # Not zeros: untouched pages need no memory.
        values = {
            layout.spec.path: np.empty(
                (layout.block_rows, *layout.spec.shape), layout.spec.numpy_dtype
            )
            for layout in layouts
        }
        return cls(first, layouts, values)

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Copies rows to the end; raises OptionError if they don't fit."""
        count, checked = check_rows(rows, self.layouts)
        self.append_checked(checked, count)

    def append_checked(self, rows: Mapping[str, NDArray[Any]], count: int) -> None:
        """Copies as many rows to the end, which are known to fit."""
        free = slice(self.filled, self.filled + count)
        for name, array in rows.items():
            self.values[name][free] = array
        # Last, so that an interrupt leaves complete rows only.
        self.filled += count

    def shards(self) -> dict[str, ShardEncoder]:
        """Returns its shards, by the names of their files."""
        shards = {}
        for layout in self.layouts:
            rows = self.values[layout.spec.path]
            # The last chunk is written completely.
            end = -(-self.filled // layout.chunk_rows) * layout.chunk_rows
            rows[self.filled : end] = 0
            file = layout.shard_file(self.first // layout.block_rows)
            shards[file] = ShardEncoder(rows, self.filled, layout)
        return shards

    @property
    def end(self) -> int:
        """The row of the store after its last one."""
        return self.first + self.filled


def read_last_block(storage: Storage, layouts: Layouts) -> tuple[Block, Layouts]:
    """Reads the committed rows of the block that is to be gone on with.

    Returns it, and the layouts without rows that only some arrays have.
    """
    rows, block_rows = min(layout.rows for layout in layouts), layouts[0].block_rows
    block = Block.empty(rows - rows % block_rows, layouts)
    even = [_read_rows(storage, layout, block, rows) for layout in layouts]
    block.filled = rows - block.first
    return block, even


def _read_rows(
    storage: Storage, layout: ArrayLayout, block: Block, rows: int
) -> ArrayLayout:
    """Reads the rows of a block up to `rows`; returns the layout with no more rows."""
    number = block.first // layout.block_rows
    if rows == block.first:
        return layout.committed(number, rows, "")
    shards = open_shards(storage, layout, shard_cache(1))
    values = shards.read(range(block.first, rows))
    digest = digests.digest_rows(values)
    if layout.rows == rows and digest != layout.digest(number):
        raise shards.damaged(number, digests.WRONG_ROWS)
    block.values[layout.spec.path][: len(values)] = values
    return layout.committed(number, rows, digest)


class BlockWriter:
    """Writes blocks in the background, and commits them in order.

    A submitted block belongs to the writer until it is committed; then its memory is
    used again. Only a block that was not full may get more rows, after `wait`, and be
    submitted again. An observer sees each full block once, while it is being written.
    """

    def __init__(
        self, location: Location, layouts: Layouts, observer: Observer | None = None
    ) -> None:
        self.committed = layouts[0].rows
        self.bytes_written = 0
        self._location = location
        self._layouts = layouts
        self._block_rows = layouts[0].block_rows
        self._thread = ThreadPoolExecutor(1, "layertap-store")
        self._pending: deque[Future[None]] = deque()
        self._free: deque[dict[str, NDArray[Any]]] = deque()
        self._observer = observer
        self._observed = 0
        self._failure: StoreError | None = None
        self._failure_raised = False

    def new_block(self, first: int) -> Block:
        """Returns a block without rows, which begins at a row of the store."""
        if self._free:
            return Block(first, self._layouts, self._free.popleft())
        return Block.empty(first, self._layouts)

    def refit(self, block: Block, sizes: Layouts) -> None:
        """Gives the first block, before it is submitted, the sizes of other layouts."""
        self._layouts = block.layouts = [
            replace(layout, block_rows=size.block_rows, chunk_rows=size.chunk_rows)
            for layout, size in zip(self._layouts, sizes, strict=True)
        ]
        self._block_rows = self._layouts[0].block_rows

    def submit(self, block: Block) -> None:
        """Starts to write a block, to be committed after all earlier ones."""
        self._begin(self._commit, block)

    def observe(self, block: Block) -> None:
        """Has the last block observed, which is not full."""
        self._begin(self._observe, block)
        self.wait()

    def _begin(self, work: Callable[[Block], None], block: Block) -> None:
        """Begins work in the background; the next call raises the first error."""

        def run() -> None:
            try:
                work(block)
            except Exception as error:
                if self._failure is None:
                    storage = self._location.storage
                    self._failure = write_error(error, storage, self.committed)

        self._pending.append(self._thread.submit(run))

    def _commit(self, block: Block) -> None:
        """Writes a block, and has it observed at the same time if it is full."""
        if self._failure is not None or not block.values:
            # After an interrupt, a block may be submitted again.
            return
        full = block.filled == self._block_rows
        # In a second thread: this one waits for the disk much of the time.
        with ThreadPoolExecutor(1, "layertap-observe") as second:
            observed = second.submit(self._observe, block) if full else None
            self._write(block)
        if observed is not None:
            observed.result()
            values, block.values = block.values, {}
            self._free.append(values)

    def _write(self, block: Block) -> None:
        """Writes the shards of a block, then commits its rows."""
        number, rows = block.first // self._block_rows, block.end
        shards = block.shards()
        self._location.storage.replace(shards)
        if self._failure is not None:
            return
        layouts = [
            layout.committed(number, rows, shard.digest)
            for layout, shard in zip(self._layouts, shards.values(), strict=True)
        ]
        self._location.commit(self._layouts, layouts)
        self._layouts = layouts
        self.committed = max(self.committed, rows)
        self.bytes_written += sum(shard.size for shard in shards.values())

    def _observe(self, block: Block) -> None:
        if self._observer is not None and self._observed < block.end:
            rows = {name: part[: block.filled] for name, part in block.values.items()}
            self._observer(block.first, rows)
            self._observed = block.end

    def wait(self, most: int = 0) -> None:
        """Waits until at most so many blocks are pending; raises a failure."""
        while len(self._pending) > most:
            self._pending[0].result()
            self._pending.popleft()
        if not most:
            # After an interrupt, a pending block may be missing there.
            self._thread.submit(int).result()
        self.check()

    def check(self) -> None:
        """Raises the failure of a block, if there is one."""
        if self._failure is not None:
            self._failure_raised = True
            raise self._failure

    def abandon(self, then: Callable[[], None]) -> None:
        """Commits nothing more; calls `then` once the last write has ended."""
        self._failure = self._failure or StoreError(
            f"Writing {self._location.storage} was interrupted. Do the same again."
        )
        self._failure_raised = True

        def end() -> None:
            wait(list(self._pending))
            then()

        Thread(target=end, name="layertap-end").start()

    def close(self) -> None:
        """Waits for all blocks; raises a failure that no call has raised."""
        # Not by joining the thread: once a join was interrupted, Python 3.11 takes the
        # thread for ended.
        wait(list(self._pending))
        self._thread.shutdown(wait=False)
        if not self._failure_raised:
            self.check()
