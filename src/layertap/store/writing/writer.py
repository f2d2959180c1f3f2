"""Writes a store: block by block, in the background, committed in order."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from numpy.typing import NDArray

from layertap.errors import StoreError
from layertap.store.format.layout import RECORDS, ArraySpec, Layouts, disk_size
from layertap.store.format.root import Root
from layertap.store.format.sizing import BLOCKS_IN_MEMORY, DEFAULT_MEMORY, lay_out
from layertap.store.location.base import Location
from layertap.store.storage.errors import write_error
from layertap.store.storage.lock import this_process
from layertap.store.writing.base import (
    Attributes,
    BaseWriter,
    Reopening,
    create_store,
    lock_store,
)
from layertap.store.writing.block_records import BlockRecords
from layertap.store.writing.blocks import (
    Block,
    BlockWriter,
    Observer,
    check_rows,
    read_last_block,
)


class Writer(BaseWriter):
    """Appends rows to a store.

    Rows are copied into a block. A full block is written in the background. Its rows
    are committed, in order, when they are safely on disk: only then do readers see
    them. The next call raises an error of the background. After an error or a crash,
    `resume` continues after the committed rows. `close` drops rows that are not.
    """

    def __init__(
        self,
        location: Location,
        root: Root,
        layouts: Layouts,
        memory: int,
        observer: Observer | None,
        block: Block | None = None,
    ) -> None:
        super().__init__(location, root)
        self._blocks = BlockWriter(location, layouts, observer)
        self._memory = memory
        self._block_rows = layouts[0].block_rows
        row_bytes = sum(layout.spec.row_bytes for layout in layouts)
        block_bytes = self._block_rows * row_bytes
        self._in_flight = max(min(memory // block_bytes, BLOCKS_IN_MEMORY) - 1, 1)
        self._block = block or self._blocks.new_block(0)
        # Whether the block that is being filled was submitted, to be committed.
        self._being_written = False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        *,
        compression: str | None = None,
        memory: int = DEFAULT_MEMORY,
        rows: int | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """Makes a store without rows, where there is none, and a writer for it.

        `memory` limits the bytes of rows that are in memory at a time, unless one row
        is larger. `rows` is how many will come, if that is known. The observer is
        called in the background with all rows in order, in blocks; `finish` passes it
        the last block, which may not be full. Its errors are raised like those of
        writing.
        """
        sizes: dict[str, Any] = {
            "compression": compression,
            "memory": memory,
            "rows": rows,
        }
        with create_store(path, arrays, attributes, **sizes) as store:
            return cls(*store, memory, observer)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        memory: int = DEFAULT_MEMORY,
        observer: Observer | None = None,
        reopening: Reopening | None = None,
    ) -> Self:
        """Makes a writer that continues after the committed rows of a store.

        It deletes what an interrupted writer left after them. The observer gets the
        blocks that were not committed completely. A complete store has to be reopened:
        its root is replaced first, at once, and nothing else is different.
        """
        with lock_store(path, reopening) as (location, root, committed):
            storage = location.storage
            layouts = BlockRecords(storage, committed, root.store).extend(committed)
            block, even = read_last_block(storage, layouts)
            root = replace(root, writer=this_process())
            location.write_root(root)
            layouts = location.trim(committed, even)
            storage.delete_folder(RECORDS)
            if block.filled:
                # The last shards are written again, with more rows.
                number = block.first // layouts[0].block_rows
                storage.remember(layout.shard_file(number) for layout in layouts)
            return cls(location, root, layouts, memory, observer, block)

    @property
    def rows(self) -> int:
        """How many rows the store has once all appended rows are committed."""
        return self._block.end

    @property
    def committed(self) -> int:
        """How many rows are on disk, and seen by readers."""
        return self._blocks.committed

    @property
    def bytes_written(self) -> int:
        """The bytes of all written shards; some are written more than once."""
        return self._blocks.bytes_written

    def estimate(self, rows: int) -> tuple[int, int]:
        """Returns how many files missing rows take, and their uncompressed bytes."""
        size = self._block_rows
        firsts = range(self._block.first, rows, size)
        blocks = (range(first, min(first + size, rows)) for first in firsts)
        return disk_size(self._block.layouts, blocks)

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Copies rows of every array; adds none if they don't fit (OptionError)."""
        self._check_usable()
        if self._being_written:
            # A commit was interrupted: the block is still being read.
            self._blocks.wait()
            self._being_written = False
        rows, checked = check_rows(values, self._block.layouts)
        start = 0
        while start < rows:
            if self._block.filled == self._block_rows:
                self._submit_full_block()
            block = self._block
            count = min(rows - start, self._block_rows - block.filled)
            block.append_checked(
                {n: a[start : start + count] for n, a in checked.items()}, count
            )
            start += count
        if self._block.filled == self._block_rows:
            self._submit_full_block()

    def commit(self, *, last: bool = False) -> None:
        """Makes all appended rows durable and visible; `last` if no more will come."""
        self._check_usable()
        self._blocks.wait()
        if self.rows > self.committed:
            if last:
                self._fit_first_block()
            self._being_written = True
            self._blocks.submit(self._block)
            self._blocks.wait()
        self._being_written = False

    def finish(self, attributes: Attributes = dict) -> None:
        """Commits all rows, adds attributes to the store, and marks it as complete.

        The attributes are asked for once the observer got all rows.
        """
        self.commit(last=True)
        if 0 < self._block.filled < self._block_rows:
            self._blocks.observe(self._block)
        before, self._root = self._root, self._completed(attributes, self.rows)
        try:
            self._location.write_root(self._root)
        except OSError as error:
            self._root = before
            raise write_error(error, self.path, self.committed) from error

    def _end(self) -> None:
        """Waits for blocks that are being written, and releases the store."""
        try:
            self._blocks.close()
        except StoreError:
            super()._end()
            raise
        except BaseException:
            # Ctrl-C: no other writer may come before the last file is written.
            self._blocks.abandon(self._location.release)
            raise
        super()._end()

    def _submit_full_block(self) -> None:
        self._blocks.wait(self._in_flight - 1)
        self._blocks.submit(self._block)
        # If an interrupt comes before this, the block is submitted again, which writes
        # the same rows again.
        self._block = self._blocks.new_block(self._block.end)

    def _fit_first_block(self) -> None:
        """Chooses smaller blocks and chunks if all rows are fewer than a block.

        Without rows, nothing was written that depends on these sizes.
        """
        block = self._block
        if self.committed or block.first or block.filled == self._block_rows:
            return
        first = block.layouts[0]
        fitting = lay_out(
            [layout.spec for layout in block.layouts],
            self.store,
            compression=first.compression,
            memory=self._memory,
            rows=block.filled,
        )
        if block.filled <= fitting[0].block_rows < self._block_rows:
            self._block_rows = fitting[0].block_rows
            self._blocks.refit(block, fitting)

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"The writer of {self.path} belongs to process {self._process}, and "
                f"this is process {os.getpid()}. Write from the process that opened it."
            )
        if not self._open or self._root.complete:
            state = "finished" if self._open else "closed"
            raise StoreError(
                f"The writer of {self.path} is {state}. No rows can be added."
            )
        self._blocks.check()
