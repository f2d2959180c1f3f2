"""HDF5: a data set at the address of each value, in chunks of rows."""

from pathlib import Path
from typing import Any

from layertap.core.optional import require
from layertap.errors import DataError
from layertap.exports.content import NUMBERS, Array, Content
from layertap.exports.hdf5_disk import Disk
from layertap.results.views.columns import Column

# Bytes of a chunk, at most, unless one row is larger: HDF5 caches as many.
_CHUNK_BYTES = 2**20


def write(content: Content, path: Path) -> None:
    """Writes a file that h5py and other programs read."""
    h5py = require("h5py", "hdf5", "A .h5 export")
    columns = content.columns((*NUMBERS, "complex64", "complex128"), "HDF5")
    with path.open("w+b", buffering=0) as opened:
        disk = Disk(opened.fileno())
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
    # Without rows, there is nothing to divide.
    chunks = (chunk, *column.shape) if rows else None
    kind = h5py.string_dtype() if column.is_text else column.dtype
    shape = (rows, *column.shape)
    data = file.create_dataset(column.name, shape, kind, chunks=chunks)
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
