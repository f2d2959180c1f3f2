"""The shards of a store, through TensorStore, which never sees a `zarr.json`.

TensorStore is told the metadata instead of reading it (`assume_metadata`). So it
neither changes what is committed nor trusts what is not.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from layertap.errors import StoreError
from layertap.store import faults
from layertap.store.faults import error_number, unreadable
from layertap.store.files import read_json
from layertap.store.layout import METADATA_FILE, ArrayLayout
from layertap.store.parsing import parse_layout

# What to read of an axis.
Part = range | NDArray[np.intp]

# More rows than any array will have: the most that TensorStore can count.
_CAPACITY = 2**62 - 2

# Shared by all arrays that are read: the tables of chunks, and chunks, used last. Every
# use looks whether their file was replaced.
_READING = tensorstore.Context({"cache_pool": {"total_bytes_limit": 16 * 2**20}})


def open_for_writing(path: Path, layout: ArrayLayout) -> Any:
    """Opens an array to write rows anywhere; no file is touched.

    Args:
        path: The folder of the store, absolute.
        layout: The array.

    Returns:
        A `tensorstore.TensorStore`.
    """
    return tensorstore.open(
        {
            **_spec(path / layout.spec.path, layout, _CAPACITY),
            # Else chunks of zeros would not be stored, as if they were missing.
            "store_data_equal_to_fill_value": True,
        },
        open=True,
        assume_metadata=True,
        write=True,
        read=False,
    ).result()


class Shards:
    """The shards of an array, to read its first rows from.

    Before anything is read of a shard, its file is looked at: one that is missing, or
    too small or too large for what it should hold, is told, and takes no memory.

    Args:
        path: The folder of the store, absolute.
        layout: The array.
        rows: How many rows are to be had.
    """

    def __init__(self, path: Path, layout: ArrayLayout, rows: int) -> None:
        self._folder = path / layout.spec.path
        self._marker: tuple[int, ...] = ()
        self._layout = layout
        self._rows = rows
        self._opened: Any = None
        self._right_sizes: set[int] = set()

    def read(self, parts: Sequence[Part]) -> NDArray[Any]:
        """Reads a part of the array.

        Args:
            parts: For each axis what to read: a range that goes up, or positions.

        Raises:
            StoreCorruptError: If what is on disk is not what was written; the file and
                its rows are named.
            StoreError: If it can't be read.
        """
        shape = [len(part) for part in parts]
        dtype = self._layout.spec.numpy_dtype
        if 0 in shape:
            return np.empty(shape, dtype)
        self._check_store()
        blocks = _blocks(parts[0], self._layout.block_rows)
        for block in blocks:
            self._check_size(block)
        try:
            # Here, for where there is no memory TensorStore would end the process; it
            # takes that of a chunk besides, as it is on disk and as it is read.
            values = np.empty(shape, dtype)
            np.empty(
                2 * self._layout.chunk_rows * self._layout.spec.row_bytes, np.uint8
            )
        except (MemoryError, ValueError) as error:
            raise StoreError(
                f"{self._folder}: an array of shape {tuple(shape)} does not fit into "
                "memory. Read fewer rows at a time."
            ) from error
        try:
            self._read_into(values, parts)
        except ValueError as error:
            raise self._why(blocks, error) from error
        return values

    def _read_into(self, values: NDArray[Any], parts: Sequence[Part]) -> None:
        if self._opened is None:
            self._opened = _open_for_reading(self._folder, self._layout, self._rows)
        wanted = tuple(
            slice(part[0], part[-1] + 1, part.step) if isinstance(part, range) else part
            for part in parts
        )
        tensorstore.array(values).write(self._opened.oindex[wanted]).result()

    def _check_store(self) -> None:
        """Checks that the array is still the one that was opened.

        Raises:
            StoreError: If another store has taken its place.
        """
        file = self._folder / METADATA_FILE
        try:
            found = file.lstat()
            marker = found.st_ino, found.st_mtime_ns, found.st_size
            if marker == self._marker:
                return
            parse_layout(
                self._layout.spec.path, file, read_json(file), self._layout.store
            )
        except OSError as error:
            raise StoreError(
                f"{self._folder} is not what it was when it was opened, and another "
                f"store may have taken its place. Open it again. ({error})"
            ) from error
        self._marker = marker

    def _check_size(self, block: int) -> None:
        if block in self._right_sizes:
            return
        file = self._folder / self._layout.shard(block)
        rows = self._layout.rows_of(block)
        sizes = self._layout.shard_bytes(len(rows))
        try:
            found = file.lstat()
        except FileNotFoundError as error:
            raise self.damaged(block, "is missing") from error
        except OSError as error:
            raise unreadable(file, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise self.damaged(block, "is no file of its own: a link, or a folder")
        if found.st_size not in sizes:
            raise self.damaged(
                block,
                f"is damaged: it has {found.st_size:,} bytes instead of "
                f"{sizes[0]:,} to {sizes[-1]:,}",
            )
        self._right_sizes.add(block)

    def _why(self, blocks: Sequence[int], error: Exception) -> StoreError:
        """Returns what to tell when some blocks could not be read."""
        found = error_number(error)
        if found:
            return unreadable(self._folder, OSError(found, ""))
        for block in blocks:
            parts = [self._layout.rows_of(block), *map(range, self._layout.spec.shape)]
            values = np.empty([*map(len, parts)], self._layout.spec.numpy_dtype)
            try:
                self._read_into(values, parts)
            except ValueError as cause:
                return self.damaged(block, f"is damaged ({cause})")
        return self.damaged(blocks[0], f"could not be read ({error})")

    def damaged(self, block: int, what: str) -> StoreError:
        """Returns what to tell of a block that is not as it was written.

        Args:
            block: The block.
            what: What is wrong, as of `faults.damaged`.
        """
        rows = self._layout.rows_of(block)
        told = f"with rows {rows[0]} to {rows[-1]} of {self._layout.spec.path} {what}"
        return faults.damaged(self._folder / self._layout.shard(block), told)


def _blocks(rows: Part, block_rows: int) -> Sequence[int]:
    """Returns the blocks that rows are in."""
    if isinstance(rows, range) and rows.step < block_rows:
        return range(rows[0] // block_rows, rows[-1] // block_rows + 1)
    if isinstance(rows, range):
        return [row // block_rows for row in rows]
    found: list[int] = np.unique(rows // block_rows).tolist()
    return found


def _open_for_reading(folder: Path, layout: ArrayLayout, rows: int) -> Any:
    return tensorstore.open(
        {
            **_spec(folder, layout, rows),
            # Else chunks that are missing would be read as zeros.
            "fill_missing_data_reads": False,
        },
        open=True,
        assume_metadata=True,
        read=True,
        write=False,
        context=_READING,
    ).result()


def _spec(folder: Path, layout: ArrayLayout, rows: int) -> dict[str, Any]:
    metadata = layout.described()
    metadata["shape"][0] = rows
    return {
        "driver": "zarr3",
        "kvstore": {
            "driver": "file",
            "path": f"{folder}/",
            "file_io_sync": True,
        },
        "metadata": metadata,
    }
