"""How large the parts of a store are: the rows of its blocks and chunks."""

from collections.abc import Sequence

from layertap.errors import OptionError
from layertap.store.format.layout import (
    COMPRESSORS,
    ArrayLayout,
    ArraySpec,
    check_paths,
)

DEFAULT_MEMORY = 512 * 2**20

# In memory at a time: the block being filled, and two on their way to the disk.
BLOCKS_IN_MEMORY = 3
SHARD_BYTES = 32 * 2**20
CHUNK_BYTES = 256 * 2**10


def lay_out(
    arrays: Sequence[ArraySpec],
    store: str,
    *,
    compression: str | None,
    memory: int,
    most_rows: int | None = None,
) -> list[ArrayLayout]:
    """Returns how arrays are to be stored, with no rows yet.

    Args:
        arrays: At least one array.
        store: Which store they are in.
        compression: None or `"zstd"`.
        memory: Bytes that all blocks in memory may take together.
        most_rows: Rows that a block has at most, if it is not to be as large as that.

    Raises:
        OptionError: If these arrays can't be in one store, or there is no such
            compression.
    """
    if not arrays:
        raise OptionError("A store needs at least one array; found none.")
    if compression is not None and compression not in COMPRESSORS:
        raise OptionError(
            f"There is no compression {compression!r}. "
            f"Choose None or one of {', '.join(map(repr, COMPRESSORS))}."
        )
    if memory < 1:
        raise OptionError(f"`memory` is a number of bytes above 0; found {memory}.")
    check_paths([array.path for array in arrays])
    block_rows = rows_per_block(arrays, memory, most_rows)
    return [
        ArrayLayout(
            array, 0, block_rows, rows_per_chunk(array, block_rows), compression, store
        )
        for array in arrays
    ]


def rows_per_block(
    arrays: Sequence[ArraySpec], memory: int, most_rows: int | None = None
) -> int:
    """Returns how many rows a block has, the same for all arrays.

    Args:
        arrays: All arrays of the store.
        memory: Bytes that all blocks in memory may take together. One row is held
            whatever its size.
        most_rows: Rows that it has at most, where it is not to be that large.
    """
    budget = memory // BLOCKS_IN_MEMORY // sum(array.row_bytes for array in arrays)
    shard = SHARD_BYTES // max(array.row_bytes for array in arrays)
    most = max(min(budget, shard, most_rows or shard), 1)
    chunks = (rows_per_chunk(array, most) for array in arrays)
    # All are powers of two, save those that are whole blocks.
    return most - most % max((rows for rows in chunks if rows < most), default=1)


def rows_per_chunk(array: ArraySpec, block_rows: int) -> int:
    """Returns how many rows a chunk of an array has: a divisor of `block_rows`.

    A chunk is a whole block if that is small. Else it has a power of two of rows, and
    at most a quarter of the block's, so that blocks can be cut to a multiple of it
    without becoming much smaller.
    """
    if block_rows * array.row_bytes <= CHUNK_BYTES:
        return block_rows
    most = min(CHUNK_BYTES // array.row_bytes, block_rows // 4)
    return 1 << (most.bit_length() - 1) if most else 1
