"""Reads the last block of a store, to add rows to it."""

from layertap.store.format import digests
from layertap.store.format.layout import ArrayLayout
from layertap.store.reading.array import open_shards
from layertap.store.reading.local_shards import shard_cache
from layertap.store.storage.base import Storage
from layertap.store.writing.blocks import Block


def read_last_block(
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
