"""What a writer finds that goes on with a store."""

from contextlib import suppress
from pathlib import Path

from layertap.errors import StoreError
from layertap.store import seals
from layertap.store.blocks import Block
from layertap.store.held import Held
from layertap.store.layout import ArrayLayout
from layertap.store.parsing import read_layouts
from layertap.store.root import read_root
from layertap.store.shards import Shards


def safe_rows(path: Path) -> int:
    """Returns how many rows of a store are committed, as far as that can be read."""
    with suppress(StoreError):
        return min(layout.rows for layout in read_layouts(path, read_root(path)))
    return 0


def cut(path: Path, layout: ArrayLayout, block: Block, rows: int) -> ArrayLayout:
    """Reads the rows of a block that count, and returns the layout with no others.

    Args:
        path: The folder of the store, absolute.
        layout: An array, with these rows at least.
        block: Where they are put.
        rows: How many rows of the store count.
    """
    number = block.first // layout.block_rows
    if rows == block.first:
        digest = ""
    else:
        shards = Shards(path, layout, Held(1))
        part = shards.read(range(block.first, rows))
        digest = seals.of_rows(part)
        if layout.rows == rows and digest != layout.digest(number):
            raise shards.damaged(number, seals.WRONG)
        block.values[layout.spec.path][: len(part)] = part
    return layout.committed(number, rows, digest)
