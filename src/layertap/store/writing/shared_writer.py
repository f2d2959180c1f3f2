"""A store whose blocks many processes write, each some of them, in any order.

One process has the store (`SharedWriter`) and hands out the numbers of blocks; others
write them (`BlockWorker`). A block that is written twice leaves the same bytes. When
all are there, the rows count, and not before, unless the writer is closed earlier:
then those count that follow each other from the first on.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Self

from layertap.errors import OptionError, StoreCorruptError, StoreError
from layertap.store.format.layout import RECORDS, ArrayLayout, ArraySpec
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import Root, read_root
from layertap.store.format.sizing import DEFAULT_MEMORY, lay_out
from layertap.store.location import locate
from layertap.store.location.base import Location
from layertap.store.reading.local_shards import shard_cache
from layertap.store.reading.reader import LazyArray
from layertap.store.storage.errors import write_error
from layertap.store.storage.lock import this_process
from layertap.store.writing.block_records import (
    Kept,
    Record,
    adopted,
    kept,
    make_records_folder,
    read_record,
    read_records,
    record_file,
    recorded,
)
from layertap.store.writing.block_worker import Claim, rows_of_block
from layertap.store.writing.resume import check_resumable

_NOTHING: Mapping[str, Any] = {}


class SharedWriter:
    """Has a store whose blocks others write. Made by `create` and `resume`.

    Best used in a `with` statement, which closes it.
    """

    def __init__(
        self, at: Location, root: Root, layouts: Sequence[ArrayLayout], rows: int
    ) -> None:
        self.path = str(at.storage)
        self.rows = rows
        self.block_rows = layouts[0].block_rows
        self._location = at
        self._storage = at.storage
        self._root = root
        self._layouts = list(layouts)
        # Of the records that were read: to read all of them takes its time.
        self._known: dict[int, Kept] = {}
        self._open = True

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        *,
        rows: int,
        most_rows: int | None = None,
        compression: str | None = None,
        memory: int = DEFAULT_MEMORY,
    ) -> Self:
        """Makes a store without rows.

        Args:
            path: As of `Writer.create`.
            arrays: As of `Writer.create`.
            attributes: As of `Writer.create`.
            rows: How many rows it is going to have.
            most_rows: Rows that a block has at most.
            compression: As of `Writer.create`.
            memory: Bytes of rows that a process which writes blocks holds at a time,
                three blocks; more if a single row is larger.

        Raises:
            NotAStoreError: If something else is there.
            StoreError: If a store is there, or none can be written.
            OptionError: If an array can't be stored, or the attributes aren't JSON.
        """
        at = locate(path)
        paths = tuple(array.path for array in arrays)
        root = Root(paths, attributes, uuid.uuid4().hex, writer=this_process())
        layouts = lay_out(
            arrays,
            root.store,
            compression=compression,
            memory=memory,
            most_rows=most_rows,
        )
        if at.exists():
            raise at.already_exists()
        try:
            at.create(root, layouts)
            make_records_folder(at.storage)
            return cls(at, root, read_layouts(at.storage, root), rows)
        except BaseException as error:
            at.release()
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                raise write_error(error, at.storage, 0) from error
            raise

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, rows: int) -> Self:
        """Has a store that is not complete, whoever began it.

        Args:
            path: The store.
            rows: How many rows it is going to have.

        Raises:
            NotAStoreError: If there is no store.
            StoreFormatError: If a newer layertap wrote it.
            StoreCorruptError: If it is damaged.
            StoreError: If it is complete, or being written, or has more rows.
        """
        at = locate(path)
        try:
            at.claim()
            return cls._resumed(at, rows)
        except BaseException as error:
            at.release()
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                raise write_error(error, at.storage, 0) from error
            raise

    @classmethod
    def _resumed(cls, at: Location, rows: int) -> Self:
        root = read_root(at.storage)
        check_resumable(at.storage, root)
        layouts = read_layouts(at.storage, root)
        most = max(layout.rows for layout in layouts)
        if most > rows:
            raise OptionError(f"{at.storage} has {most} rows; it can't have {rows}.")
        root = replace(root, writer=this_process())
        at.write_root(root)
        layouts = at.take_over(layouts, layouts)
        make_records_folder(at.storage)
        return cls(at, root, layouts, rows)

    @property
    def claim(self) -> Claim:
        """What those have to know who write blocks."""
        assert self._root.writer is not None
        return Claim(str(self.path), self._root.store, self._root.writer, self.rows)

    @property
    def blocks(self) -> int:
        """How many blocks all rows are in."""
        return -(-self.rows // self.block_rows)

    @property
    def store(self) -> str:
        """Which store it is: a random text, another one for each."""
        return self._root.store

    def array(self, name: str) -> LazyArray:
        """Returns an array with the rows of all blocks, also of those that are missing.

        Args:
            name: Its path.
        """
        (layout,) = (one for one in self._layouts if one.spec.path == name)
        whole = replace(layout, rows=self.rows)
        return LazyArray(self._storage, whole, self.rows, shard_cache(1))

    def missing(self) -> list[int]:
        """Returns the blocks that are neither committed nor recorded.

        Raises:
            StoreError: If that can't be read.
        """
        wanted = {block: len(self.rows_of(block)) for block in range(self.blocks)}
        there = recorded(self._storage)
        for block, rows in there - wanted.items():
            # Of data that had another number of rows.
            self._storage.delete([record_file(block, rows)])
        begin = self._committed // self.block_rows
        if self._committed == self.rows:
            begin = self.blocks
        there &= wanted.items()
        return [b for b in range(begin, self.blocks) if (b, wanted[b]) not in there]

    def rows_of(self, block: int) -> range:
        """Returns the rows of a block, as numbered in the store."""
        return rows_of_block(block, self.block_rows, self.rows)

    def notes(self) -> Iterator[tuple[int, Any]]:
        """Yields for each block its first row and what its worker noted.

        None for a block that no worker recorded: one that was committed before.

        Raises:
            StoreError: If a record can't be read, or is missing.
        """
        there = recorded(self._storage)
        wanted = ((block, len(self.rows_of(block))) for block in range(self.blocks))
        found = [pair for pair in wanted if pair in there]
        store = self._root.store
        with closing(
            read_records(self._storage, self._layouts, store, found)
        ) as records:
            for block in range(self.blocks):
                rows, notes = self.rows_of(block), None
                if (block, len(rows)) in there:
                    record = next(records)
                    self._known[block] = kept(record, self._layouts)
                    notes = record.notes
                yield rows.start, notes

    @property
    def _committed(self) -> int:
        return min(layout.rows for layout in self._layouts)

    def _record(self, block: int) -> Record:
        rows = len(self.rows_of(block))
        return read_record(self._storage, self._layouts, self._root.store, block, rows)

    def finish(
        self, attributes: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = _NOTHING
    ) -> None:
        """Makes all rows count, and marks the store as complete.

        Args:
            attributes: To be added to those of the store; or what gives them.

        Raises:
            StoreError: If a block is missing, or it could not be written.
            OptionError: If the attributes aren't JSON.
        """
        missing = self.missing()
        if missing:
            raise StoreError(
                f"{self.path} is not whole: blocks {missing[:5]} of {self.blocks} are "
                "missing. Do the same again."
            )
        more = attributes() if callable(attributes) else attributes
        root = replace(
            self._root,
            attributes={**self._root.attributes, **more},
            complete=True,
            rows=self.rows,
            writer=None,
        )
        root.contents()
        try:
            even = adopted(self._storage, self._root, self._layouts, self._known)
            if {layout.rows for layout in even} != {self.rows}:
                raise StoreError("a record is gone, or of fewer rows than its block")
            self._layouts = self._location.cut(self._layouts, even)
            self._storage.delete_folder(RECORDS)
            self._location.write_root(root)
        except StoreCorruptError:
            raise
        except OSError as error:
            raise write_error(error, self.path, self._committed) from error
        self._root = root

    def close(self) -> None:
        """Lets go of the store; rows count up to the first missing block."""
        if not self._open:
            return
        self._open = False
        if not self._root.complete:
            # What can't be said now is said by whoever goes on.
            with suppress(OSError):
                even = adopted(self._storage, self._root, self._layouts, self._known)
                pairs = zip(self._layouts, even, strict=True)
                self._location.commit(
                    [after for before, after in pairs if before != after]
                )
                self._location.write_root(replace(self._root, writer=None))
        self._location.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
