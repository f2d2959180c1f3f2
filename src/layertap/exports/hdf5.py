"""HDF5: a data set at the address of each value, in chunks of rows."""

import os
from pathlib import Path
from typing import Any

from layertap.core.optional import require
from layertap.errors import DataError
from layertap.exports.content import NUMBERS, Array, Column, Content

# Bytes of a chunk, at most, unless one row is larger: HDF5 caches as many.
_CHUNK_BYTES = 2**20


def write(content: Content, path: Path) -> None:
    """Writes a file that h5py and other programs read."""
    h5py = require("h5py", "hdf5", "A .h5 export")
    columns = content.columns((*NUMBERS, "complex64", "complex128"), "HDF5")
    with path.open("w+b", buffering=0) as opened:
        disk = _Disk(opened.fileno())
        with h5py.File(disk, "w") as file:
            file.attrs.update(content.metadata)
            for column in columns:
                data = _create(h5py, file, column, content.rows)
                start = 0
                for (array,) in content.pieces([column]):
                    data[start : start + len(array)] = _prepared(array)
                    start += len(array)
                    disk.check()
        disk.check()


def _create(h5py: Any, file: Any, column: Column, rows: int) -> Any:
    """Makes the data set of a column, with its attributes."""
    chunk = min(max(_CHUNK_BYTES // column.row_bytes, 1), rows)
    data = file.create_dataset(
        column.name,
        (rows, *column.shape),
        h5py.string_dtype() if column.is_text else column.dtype,
        # Without rows, there is nothing to divide.
        chunks=(chunk, *column.shape) if rows else None,
    )
    data.attrs.update(column.facts)
    return data


def _prepared(array: Array) -> Array:
    """Returns texts as objects, as h5py wants them; numbers stay."""
    if array.dtype.kind != "U":
        return array
    texts = array.astype(object)
    for text in texts:
        if "\0" in text:
            raise DataError(
                f"The id {text!r} has a NUL character, which a text in HDF5 can't "
                "have. Export to another format."
            )
    return texts


class _Disk:
    """A file for HDF5, which crashes if it can't write: `check` raises such an error.

    Bytes that are written after the error stay in memory, since HDF5 may read them.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = self._end = 0
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raises the error of the first write that failed."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a place, from the start or from the end."""
        self._place = offset + (self._end if whence == os.SEEK_END else 0)
        return self._place

    def tell(self) -> int:
        """Returns the place."""
        return self._place

    def write(self, data: memoryview) -> None:
        """Writes bytes at the place, all of them."""
        data, start = memoryview(data).cast("B"), self._place
        self._place += len(data)
        self._end = max(self._end, self._place)
        done = 0
        try:
            while self._error is None and done < len(data):
                done += os.pwrite(self._descriptor, data[done:], start + done)
        except OSError as error:
            self._error = error
        if done < len(data):
            self._unwritten.append((start, bytes(data)))

    def readinto(self, buffer: memoryview) -> int:
        """Reads bytes at the place, zeros where none were written."""
        view = memoryview(buffer).cast("B")
        read = bytearray(os.pread(self._descriptor, len(view), self._place))
        read += bytes(len(view) - len(read))
        for start, data in self._unwritten:
            first = max(start - self._place, 0)
            part = data[max(self._place - start, 0) :][: max(len(read) - first, 0)]
            read[first : first + len(part)] = part
        view[:] = read
        return len(view)

    read = readinto  # by which h5py knows a file

    def truncate(self, size: int) -> None:
        """Sets the size of the file."""
        self._end = size
        if self._error is None:
            os.ftruncate(self._descriptor, size)

    def flush(self) -> None:
        """Does nothing: no bytes wait."""
