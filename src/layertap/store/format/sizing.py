"""Sizes of the parts of a store: the rows of its blocks and chunks."""

from collections.abc import Sequence

from layertap.errors import OptionError
from layertap.store.format.layout import CODECS, ArrayLayout, ArraySpec, check_paths

DEFAULT_MEMORY = 512 * 2**20

# In memory at a time: the block being filled, and two being written.
BLOCKS_IN_MEMORY = 3
SHARD_BYTES = 32 * 2**20
CHUNK_BYTES = 256 * 2**10
# An array of few rows has smaller chunks, since its last chunk is padded, and not many
# in a block, since an index has an entry for each.
SMALL_CHUNK_BYTES = 2**10
_MOST_SMALL_CHUNKS = 64
_LEAST_FULL_CHUNKS = 10


def lay_out(
    arrays: Sequence[ArraySpec],
    store: str,
    *,
    compression: str | None = None,
    memory: int = DEFAULT_MEMORY,
    most_rows: int | None = None,
    rows: int | None = None,
) -> list[ArrayLayout]:
    """Returns the layouts of the arrays of a new store, for a number of rows if known.

    See `rows_per_block`.
    """
    if not arrays:
        raise OptionError("A store has no arrays. Expected at least one array.")
    if compression is not None and compression not in CODECS:
        raise OptionError(
            f"`compression` is not known. Expected None or one of "
            f"{', '.join(map(repr, CODECS))}. Received {compression!r}."
        )
    if memory < 1:
        raise OptionError(
            "`memory` is too small. Expected a number of bytes above 0. "
            f"Received {memory}."
        )
    check_paths([array.path for array in arrays])
    block_rows = rows_per_block(arrays, memory, most_rows, rows)
    chunks = [rows_per_chunk(array, block_rows, rows) for array in arrays]
    return [
        ArrayLayout(array, 0, block_rows, chunk_rows, compression, store)
        for array, chunk_rows in zip(arrays, chunks, strict=True)
    ]


def rows_per_block(
    arrays: Sequence[ArraySpec],
    memory: int,
    most_rows: int | None = None,
    rows: int | None = None,
) -> int:
    """Returns the rows of a block, so that all blocks in memory fit into `memory`.

    A store of few rows has smaller blocks: it may get more rows later.
    """
    budget = memory // BLOCKS_IN_MEMORY // sum(array.row_bytes for array in arrays)
    shard = SHARD_BYTES // max(array.row_bytes for array in arrays)
    most = max(min(budget, shard, most_rows or shard), 1)
    for array in arrays:
        chunk_bytes = _most_chunk_bytes(array, rows)
        if chunk_bytes < CHUNK_BYTES:
            few = _MOST_SMALL_CHUNKS * max(chunk_bytes // array.row_bytes, 1)
            most = min(most, few)
    chunks = (rows_per_chunk(array, most, rows) for array in arrays)
    # All are powers of two, except chunks as large as a block.
    return most - most % max((chunk for chunk in chunks if chunk < most), default=1)


def rows_per_chunk(array: ArraySpec, block_rows: int, rows: int | None = None) -> int:
    """Returns the rows of a chunk, which divide `block_rows`.

    A small block is one chunk. Other chunks have a power of two of rows, and at most a
    quarter of a block: a block cut to a multiple of them is not much smaller.
    """
    chunk_bytes = _most_chunk_bytes(array, rows)
    if block_rows * array.row_bytes <= chunk_bytes:
        return block_rows
    most = min(chunk_bytes // array.row_bytes, block_rows // 4)
    return 1 << (most.bit_length() - 1) if most else 1


def _most_chunk_bytes(array: ArraySpec, rows: int | None) -> int:
    """Returns the most bytes of a chunk; all `rows` of an array have ten chunks."""
    if rows is None:
        return CHUNK_BYTES
    part = rows * array.row_bytes // _LEAST_FULL_CHUNKS
    return min(max(part, SMALL_CHUNK_BYTES), CHUNK_BYTES)
