"""A store whose blocks many processes write, each some of them, in any order.

One process locks the store (`SharedWriter`) and hands out the numbers of blocks; others
write them (`BlockWorker`). A block that is written twice leaves the same bytes. Rows
count once all blocks exist; after an earlier `close`, those up to a missing block.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Self

from layertap.errors import OptionError, StoreCorruptError, StoreError
from layertap.store.format.layout import RECORDS, ArraySpec, Layouts, disk_size
from layertap.store.format.root import Root
from layertap.store.location.base import Location
from layertap.store.reading.array import LazyArray
from layertap.store.reading.local_shards import shard_cache
from layertap.store.storage.errors import write_error
from layertap.store.storage.lock import this_process
from layertap.store.writing.base import (
    Attributes,
    BaseWriter,
    Reopening,
    create_store,
    lock_store,
)
from layertap.store.writing.block_records import BlockRecords, record_file
from layertap.store.writing.block_worker import Claim
from layertap.store.writing.blocks import read_last_block


class SharedWriter(BaseWriter):
    """Locks a store whose blocks others write."""

    def __init__(
        self, location: Location, root: Root, layouts: Layouts, rows: int
    ) -> None:
        super().__init__(location, root)
        self.rows = rows
        # With all rows that the store will have.
        self._planned = replace(layouts[0], rows=rows)
        self.block_rows = self._planned.block_rows
        self._layouts = layouts
        self._records = BlockRecords(self._storage, self._layouts, root.store)
        self._records.make_folder()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        *,
        rows: int,
        **sizes: Any,
    ) -> Self:
        """Makes a store for so many rows; for `sizes`, see `lay_out`."""
        with create_store(path, arrays, attributes, rows=rows, **sizes) as store:
            return cls(*store, rows)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        rows: int,
        reopening: Reopening | None = None,
    ) -> Self:
        """Locks a store that will have so many rows; a complete one is reopened."""
        with lock_store(path, reopening) as (location, root, layouts):
            most = max(layout.rows for layout in layouts)
            if most > rows:
                raise OptionError(
                    f"{location.storage} has {most} rows; it can't have {rows}."
                )
            _, even = read_last_block(location.storage, layouts)
            root = replace(root, writer=this_process())
            location.write_root(root)
            return cls(location, root, location.take_over(layouts, even), rows)

    @property
    def claim(self) -> Claim:
        """What a `BlockWorker` has to know."""
        assert self._root.writer is not None
        return Claim(self.path, self.store, self._root.writer, self.rows)

    @property
    def blocks(self) -> int:
        """The number of blocks of all rows."""
        return self._planned.blocks

    def array(self, name: str) -> LazyArray:
        """Returns an array with the rows of all blocks, also of missing ones."""
        (layout,) = (lay for lay in self._layouts if lay.spec.path == name)
        full = replace(layout, rows=self.rows)
        return LazyArray(self._storage, full, self.rows, shard_cache(1))

    def missing(self) -> list[int]:
        """Returns the blocks that are neither committed nor recorded."""
        recorded, expected = self._records.blocks(), self._expected_records()
        # Of data that had another number of rows.
        outdated = recorded - set(expected)
        self._storage.delete(record_file(block, rows) for block, rows in outdated)
        begin = self._committed // self.block_rows
        if self._committed == self.rows:
            begin = self.blocks
        return [pair[0] for pair in expected[begin:] if pair not in recorded]

    def _expected_records(self) -> list[tuple[int, int]]:
        return [(block, len(self.rows_of(block))) for block in range(self.blocks)]

    def estimate(self, blocks: Sequence[int]) -> tuple[int, int]:
        """Returns how many files some blocks take, and their uncompressed bytes."""
        shards, size = disk_size(self._layouts, map(self.rows_of, blocks))
        # And a record for each block.
        return shards + len(blocks), size

    def rows_of(self, block: int) -> range:
        """Returns the rows of a block, as numbered in the store."""
        return self._planned.row_range(block)

    def notes(self) -> Iterator[tuple[int, Any]]:
        """Yields for each block its first row and the notes of its worker.

        The notes are None for a block without a record, which was committed before.
        """
        recorded, expected = self._records.blocks(), self._expected_records()
        present = [pair for pair in expected if pair in recorded]
        with closing(self._records.read_all(present)) as records:
            for block, rows in expected:
                notes = None
                if (block, rows) in recorded:
                    record = next(records)
                    self._records.cache(record)
                    notes = record.notes
                yield block * self.block_rows, notes

    @property
    def _committed(self) -> int:
        return min(layout.rows for layout in self._layouts)

    def finish(self, attributes: Attributes = dict) -> None:
        """Commits all rows, adds attributes to the store, and marks it as complete."""
        missing = self.missing()
        if missing:
            raise StoreError(
                f"{self.path} is not complete: blocks {missing[:5]} of {self.blocks} "
                "are missing. Do the same again."
            )
        root = self._completed(attributes, self.rows)
        try:
            layouts = self._records.extend(self._layouts)
            if {layout.rows for layout in layouts} != {self.rows}:
                raise StoreError("a record is gone, or of fewer rows than its block")
            self._layouts = self._location.trim(self._layouts, layouts)
            self._storage.delete_folder(RECORDS)
            self._location.write_root(root)
        except StoreCorruptError:
            raise
        except OSError as error:
            raise write_error(error, self.path, self._committed) from error
        self._root = root

    def _end(self) -> None:
        """Commits rows up to the first missing block, and releases the store."""
        if not self._root.complete:
            # If this fails, the next writer commits the rows.
            with suppress(OSError):
                layouts = self._records.extend(self._layouts)
                self._location.commit(self._layouts, layouts)
        super()._end()
