"""A store whose blocks many processes write, each some of them, in any order.

One process has the store (`SharedWriter`) and hands out the numbers of blocks; others
write them (`Contributor`). A block that is written twice leaves the same bytes. When
all are there, the rows count, and not before, unless the writer is closed earlier:
then those count that follow each other from the first on.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from layertap.errors import OptionError, StoreCorruptError, StoreError
from layertap.store.blocks import Block
from layertap.store.faults import write_error
from layertap.store.held import Held
from layertap.store.layout import (
    METADATA_FILE,
    RECORDS,
    ArrayLayout,
    ArraySpec,
    to_json,
)
from layertap.store.locks import this_process
from layertap.store.parsing import read_layouts
from layertap.store.place import Place
from layertap.store.places import place
from layertap.store.reader import LazyArray
from layertap.store.records import (
    Kept,
    Record,
    adopted,
    kept,
    place_of,
    read_record,
    read_records,
    recorded,
)
from layertap.store.resuming import check_resumable
from layertap.store.root import Root, read_root
from layertap.store.shard import Contents
from layertap.store.sizes import DEFAULT_MEMORY, lay_out

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Claim:
    """What a process that writes blocks has to know. It can be pickled.

    Args:
        path: The store.
        store: Which one it is.
        writer: Who has it, as its root says.
        rows: How many rows it is going to have.
    """

    path: str
    store: str
    writer: Mapping[str, Any]
    rows: int


class SharedWriter:
    """Has a store whose blocks others write. Made by `create` and `resume`.

    Best used in a `with` statement, which closes it.
    """

    def __init__(
        self, at: Place, root: Root, layouts: Sequence[ArrayLayout], rows: int
    ) -> None:
        self.path = at.path
        self.rows = rows
        self.block_rows = layouts[0].block_rows
        self._place = at
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
        at = place(path)
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
            raise at.already_there()
        try:
            at.create(root, layouts)
            at.prepare(at.path / RECORDS)
            return cls(at, root, read_layouts(at.path, root), rows)
        except BaseException as error:
            at.release()
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                raise write_error(error, at.path, 0) from error
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
        at = place(path)
        try:
            at.claim()
            return cls._resumed(at, rows)
        except BaseException as error:
            at.release()
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                raise write_error(error, at.path, 0) from error
            raise

    @classmethod
    def _resumed(cls, at: Place, rows: int) -> Self:
        root = read_root(at.path)
        check_resumable(at.path, root)
        layouts = read_layouts(at.path, root)
        most = max(layout.rows for layout in layouts)
        if most > rows:
            raise OptionError(f"{at.path} has {most} rows; it can't have {rows}.")
        root = replace(root, writer=this_process())
        at.replace({at.path / METADATA_FILE: [root.contents()]})
        layouts = at.mark(layouts)
        at.prepare(at.path / RECORDS)
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
        return LazyArray(self.path, whole, self.rows, Held(1))

    def missing(self) -> list[int]:
        """Returns the blocks that are neither committed nor recorded.

        Raises:
            StoreError: If that can't be read.
        """
        wanted = {block: len(self.rows_of(block)) for block in range(self.blocks)}
        there = recorded(self._place)
        for block, rows in there - wanted.items():
            # Of data that had another number of rows.
            self._place.delete(place_of(self.path, block, rows))
        begin = self._committed // self.block_rows
        if self._committed == self.rows:
            begin = self.blocks
        there &= wanted.items()
        return [b for b in range(begin, self.blocks) if (b, wanted[b]) not in there]

    def rows_of(self, block: int) -> range:
        """Returns the rows of a block, as numbered in the store."""
        return _rows_of(block, self.block_rows, self.rows)

    def notes(self) -> Iterator[tuple[int, Any]]:
        """Yields for each block its first row and what its worker noted.

        None for a block that no worker recorded: one that was committed before.

        Raises:
            StoreError: If a record can't be read, or is missing.
        """
        there = recorded(self._place)
        wanted = ((block, len(self.rows_of(block))) for block in range(self.blocks))
        found = [pair for pair in wanted if pair in there]
        store = self._root.store
        with closing(read_records(self.path, self._layouts, store, found)) as records:
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
        return read_record(self.path, self._layouts, self._root.store, block, rows)

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
        contents = root.contents()
        try:
            even = adopted(self._place, self._root, self._layouts, self._known)
            if {layout.rows for layout in even} != {self.rows}:
                raise StoreError("a record is gone, or of fewer rows than its block")
            self._layouts = self._place.cut(self._layouts, even)
            self._place.discard(self.path / RECORDS)
            self._place.replace({self.path / METADATA_FILE: [contents]})
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
                even = adopted(self._place, self._root, self._layouts, self._known)
                self._place.replace(
                    {
                        self.path / after.spec.path / METADATA_FILE: [
                            to_json(after.metadata())
                        ]
                        for before, after in zip(self._layouts, even, strict=True)
                        if before != after
                    }
                )
                root = replace(self._root, writer=None)
                self._place.replace({self.path / METADATA_FILE: [root.contents()]})
        self._place.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Contributor:
    """Writes blocks of a store that another process has: one of many that do.

    Args:
        claim: What that process has given it.

    Raises:
        StoreError: If the store is not there any more, or another process has it.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._place = place(claim.path)
        self.path = self._place.path
        root = self._check()
        self._layouts = read_layouts(self.path, root)
        self.block_rows = self._layouts[0].block_rows

    def _check(self) -> Root:
        """Checks that the save goes on that this is a part of."""
        claim = self._claim
        root = read_root(self.path)
        if (root.store, root.writer) != (claim.store, claim.writer) or root.complete:
            raise StoreError(
                f"{self.path}: the save that this worker is of has ended, or another "
                "one has the store. Nothing more is written."
            )
        return root

    def rows_of(self, block: int) -> range:
        """Returns the rows of a block, as numbered in the store."""
        return _rows_of(block, self.block_rows, self._claim.rows)

    def written(self, block: int) -> bool:
        """Returns whether a block has its record already.

        Raises:
            StoreCorruptError: If that is damaged.
            StoreError: If it can't be read.
        """
        try:
            self._record(block)
        except FileNotFoundError:
            return False
        return True

    def _record(self, block: int) -> Record:
        rows = len(self.rows_of(block))
        return read_record(self.path, self._layouts, self._claim.store, block, rows)

    def empty(self, block: int) -> Block:
        """Returns a block without rows."""
        return Block.empty(block * self.block_rows, self._layouts)

    def write(self, block: Block, notes: Any = None) -> int:
        """Writes a block, and records it.

        Args:
            block: All its rows.
            notes: What is to be known of them, as JSON.

        Returns:
            How many bytes were written.

        Raises:
            StoreError: If it can't be written, if the save has ended, or another
                worker has meanwhile written other values.
        """
        number = block.first // self.block_rows
        block.end_with_zeros(self._layouts)
        contents = {
            self.path / layout.spec.path / layout.shard(number): Contents(
                block.values[layout.spec.path], block.filled, layout
            )
            for layout in self._layouts
        }
        try:
            self._check()
            self._place.put(contents)
            digests = {
                layout.spec.path: part.digest
                for layout, part in zip(self._layouts, contents.values(), strict=True)
            }
            self._add(Record(self._claim.store, number, block.filled, digests, notes))
        except StoreError:
            raise
        except OSError as error:
            raise write_error(error, self.path, 0) from error
        return sum(part.size for part in contents.values())

    def _add(self, record: Record) -> None:
        # That has ended meanwhile, or the store was replaced.
        self._check()
        file = place_of(self.path, record.block, record.rows)
        if self._place.add(file, record.contents()):
            return
        if self._record(record.block) == record:
            return
        # Neither is known to be what is there now.
        self._place.delete(file)
        raise StoreError(
            f"{self.path}: two workers have computed other values for block "
            f"{record.block}. It is left out; do the same again."
        )


def _rows_of(block: int, block_rows: int, rows: int) -> range:
    first = block * block_rows
    return range(first, min(first + block_rows, rows))
