"""Writes single blocks of a store that another process has locked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from layertap.errors import StoreError
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import Root, read_root
from layertap.store.location import locate
from layertap.store.storage.errors import write_error
from layertap.store.writing.block_records import BlockRecords, Record, record_file
from layertap.store.writing.blocks import Block, read_last_block


@dataclass(frozen=True)
class Claim:
    """What a `BlockWorker` in another process has to know. It can be pickled.

    Args:
        path: The path of the store.
        store: The id of the store.
        writer: The record of the process that has locked it.
        rows: How many rows it will have.
    """

    path: str
    store: str
    writer: Mapping[str, Any]
    rows: int


class BlockWorker:
    """Writes blocks of a store that another process has locked: one of many workers."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._storage = locate(claim.path).storage
        root = self._check()
        self._layouts = read_layouts(self._storage, root)
        self._records = BlockRecords(self._storage, self._layouts, claim.store)
        # With all rows that the store will have.
        self._planned = replace(self._layouts[0], rows=claim.rows)
        self.block_rows = self._planned.block_rows

    def _check(self) -> Root:
        """Raises StoreError if the save that this worker belongs to has ended."""
        claim = self._claim
        root = read_root(self._storage)
        if (root.store, root.writer) != (claim.store, claim.writer) or root.complete:
            raise StoreError(
                f"{self._storage}: the save that this worker belongs to has ended, or "
                "another one has the store. Nothing more is written."
            )
        return root

    def rows_of(self, block: int) -> range:
        """Returns the rows of a block, as numbered in the store."""
        return self._planned.row_range(block)

    def written(self, block: int) -> bool:
        """Returns whether a block has a record; raises StoreCorruptError for damage."""
        try:
            self._records.read(block, len(self.rows_of(block)))
        except FileNotFoundError:
            return False
        return True

    def begin(self, number: int) -> Block:
        """Returns a block with the rows that are committed: most have none.

        Readers see these rows while the shards are replaced: they stay to the bit.
        """
        rows = min(layout.rows for layout in self._layouts)
        if number == rows // self.block_rows:
            return read_last_block(self._storage, self._layouts)[0]
        return Block.empty(number * self.block_rows, self._layouts)

    def write(self, block: Block, notes: Any = None) -> int:
        """Writes a complete block and records it with JSON notes; returns its bytes."""
        number, shards = block.first // self.block_rows, block.shards()
        try:
            self._check()
            self._storage.overwrite(shards)
            written = zip(block.values, shards.values(), strict=True)
            digests = {path: shard.digest for path, shard in written}
            self._add(Record(self._claim.store, number, block.filled, digests, notes))
        except StoreError:
            raise
        except OSError as error:
            raise write_error(error, self._storage, 0) from error
        return sum(shard.size for shard in shards.values())

    def _add(self, record: Record) -> None:
        # The save may have ended since, or the store may have been replaced.
        self._check()
        file = record_file(record.block, record.rows)
        created = self._storage.create(file, record.contents())
        if not created and self._records.read(record.block, record.rows) != record:
            # It is not known whose shards are in the store now.
            self._storage.delete([file])
            raise StoreError(
                f"{self._storage}: two workers have computed different values for "
                f"block {record.block}. It was not saved. Do the same again."
            )
