"""The shards of a store, through TensorStore, which never sees a `zarr.json`.

TensorStore is told the metadata instead of reading it (`assume_metadata`). So it
neither changes what is committed nor trusts what is not.
"""

import errno
import os
import re
from pathlib import Path
from typing import Any

import tensorstore

from layertap.errors import StoreCorruptError, StoreError
from layertap.store.layout import ArrayLayout

# More rows than any array will have: the most that TensorStore can count.
_CAPACITY = 2**62 - 2

# Shared by all arrays that are read: the tables of chunks, and chunks, used last. Every
# use looks whether their file was replaced.
_READING = tensorstore.Context({"cache_pool": {"total_bytes_limit": 16 * 2**20}})

_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EACCES: "Check who may write there",
    errno.EPERM: "Check who may write there",
    errno.EROFS: "Make the disk writable",
}


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
            **_spec(path, layout, _CAPACITY),
            # Else chunks of zeros would not be stored, as if they were missing.
            "store_data_equal_to_fill_value": True,
        },
        open=True,
        assume_metadata=True,
        write=True,
        read=False,
    ).result()


def open_for_reading(path: Path, layout: ArrayLayout, rows: int) -> Any:
    """Opens the first rows of an array to read; no file is touched yet.

    Args:
        path: The folder of the store, absolute.
        layout: The array.
        rows: How many rows it shall have.

    Returns:
        A `tensorstore.TensorStore`.

    Raises:
        StoreCorruptError: If there can be no array of that layout.
    """
    try:
        return tensorstore.open(
            {
                **_spec(path, layout, rows),
                # Else chunks that are missing would be read as zeros.
                "fill_missing_data_reads": False,
            },
            open=True,
            assume_metadata=True,
            read=True,
            write=False,
            context=_READING,
        ).result()
    except ValueError as error:
        raise read_error(error, path, layout, "metadata") from error


def _spec(path: Path, layout: ArrayLayout, rows: int) -> dict[str, Any]:
    metadata = layout.metadata()
    metadata["shape"][0] = rows
    return {
        "driver": "zarr3",
        "kvstore": {
            "driver": "file",
            "path": f"{path / layout.spec.path}/",
            "file_io_sync": True,
        },
        "metadata": metadata,
    }


def write_error(error: Exception, path: Path, rows: int) -> StoreError:
    """Returns what to tell the user when a store can't be written.

    Args:
        error: What TensorStore or the operating system said.
        path: The folder of the store, absolute.
        rows: How many rows of it are committed.
    """
    code = _error_number(error)
    reason = os.strerror(code) if code else str(error)
    if isinstance(error, OSError) and error.filename:
        reason += f": {error.filename}"
    safe = f"Its {rows:,} rows so far are safe. " if rows else ""
    return StoreError(
        f"{path} could not be written: {reason}. {safe}"
        f"{_ADVICE.get(code, 'Mend that')}, then do the same again."
    )


def read_error(
    error: Exception, path: Path, layout: ArrayLayout, where: str
) -> StoreError:
    """Returns what to tell the user when an array can't be read.

    Args:
        error: What TensorStore said.
        path: The folder of the store, absolute.
        layout: The array.
        where: What of the array was read.
    """
    code = _error_number(error)
    if code:
        return StoreError(
            f"{path}: {where} of {layout.spec.path} can't be read: {os.strerror(code)}."
        )
    return StoreCorruptError(
        f"{path}: {where} of {layout.spec.path} are damaged or missing. {error}. "
        "Restore the file from a copy, or save the values again."
    )


def _error_number(error: Exception) -> int:
    """Returns the operating system's number of an error, or 0."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else 0
