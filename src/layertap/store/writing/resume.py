"""What a writer finds that goes on with a store."""

from contextlib import suppress

from layertap.errors import StoreError
from layertap.store.format import digests
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import Root, read_root
from layertap.store.reading.array import shards_of
from layertap.store.reading.local_shards import shard_cache
from layertap.store.storage.base import Storage
from layertap.store.writing.blocks import Block


def check_resumable(storage: Storage, root: Root) -> None:
    """Raises if no rows can be added to a store.

    Raises:
        StoreError: If it is complete.
    """
    if root.complete:
        raise StoreError(
            f"The store {storage} is complete: no rows can be added. "
            "Write to another path, or remove it first."
        )


def safe_rows(storage: Storage) -> int:
    """Returns how many rows of a store are committed, as far as that can be read."""
    with suppress(StoreError):
        return min(layout.rows for layout in read_layouts(storage, read_root(storage)))
    return 0


def cut(storage: Storage, layout: ArrayLayout, block: Block, rows: int) -> ArrayLayout:
    """Reads the rows of a block that count, and returns the layout with no others.

    Args:
        storage: The files of the store.
        layout: An array, with these rows at least.
        block: Where they are put.
        rows: How many rows of the store count.
    """
    number = block.first // layout.block_rows
    if rows == block.first:
        digest = ""
    else:
        shards = shards_of(storage, layout, shard_cache(1))
        part = shards.read(range(block.first, rows))
        digest = digests.digest_rows(part)
        if layout.rows == rows and digest != layout.digest(number):
            raise shards.damaged(number, digests.WRONG_ROWS)
        block.values[layout.spec.path][: len(part)] = part
    return layout.committed(number, rows, digest)
