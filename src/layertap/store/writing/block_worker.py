"""Writes single blocks of a store that another process has: one of many that do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layertap.errors import StoreError
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import Root, read_root
from layertap.store.format.shard_encoder import ShardEncoder
from layertap.store.location import locate
from layertap.store.storage.errors import write_error
from layertap.store.writing.block_records import Record, read_record, record_file
from layertap.store.writing.blocks import Block


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


class BlockWorker:
    """Writes blocks of a store that another process has: one of many that do.

    Args:
        claim: What that process has given it.

    Raises:
        StoreError: If the store is not there any more, or another process has it.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._storage = locate(claim.path).storage
        root = self._check()
        self._layouts = read_layouts(self._storage, root)
        self.block_rows = self._layouts[0].block_rows

    def _check(self) -> Root:
        """Checks that the save goes on that this is a part of."""
        claim = self._claim
        root = read_root(self._storage)
        if (root.store, root.writer) != (claim.store, claim.writer) or root.complete:
            raise StoreError(
                f"{self._storage}: the save that this worker is of has ended, or "
                "another one has the store. Nothing more is written."
            )
        return root

    def rows_of(self, block: int) -> range:
        """Returns the rows of a block, as numbered in the store."""
        return rows_of_block(block, self.block_rows, self._claim.rows)

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
        return read_record(self._storage, self._layouts, self._claim.store, block, rows)

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
            layout.shard_file(number): ShardEncoder(
                block.values[layout.spec.path], block.filled, layout
            )
            for layout in self._layouts
        }
        try:
            self._check()
            self._storage.overwrite(contents)
            digests = {
                layout.spec.path: part.digest
                for layout, part in zip(self._layouts, contents.values(), strict=True)
            }
            self._add(Record(self._claim.store, number, block.filled, digests, notes))
        except StoreError:
            raise
        except OSError as error:
            raise write_error(error, self._storage, 0) from error
        return sum(part.size for part in contents.values())

    def _add(self, record: Record) -> None:
        # That has ended meanwhile, or the store was replaced.
        self._check()
        file = record_file(record.block, record.rows)
        if self._storage.create(file, record.contents()):
            return
        if self._record(record.block) == record:
            return
        # Neither is known to be what is there now.
        self._storage.delete([file])
        raise StoreError(
            f"{self._storage}: two workers have computed other values for block "
            f"{record.block}. It is left out; do the same again."
        )


def rows_of_block(block: int, block_rows: int, rows: int) -> range:
    """Returns the rows of a block, of a store with so many in blocks of so many."""
    first = block * block_rows
    return range(first, min(first + block_rows, rows))
