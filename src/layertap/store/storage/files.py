"""Single files of a store: read with care, replaced atomically.

A `zarr.json` is never written in place: a reader sees the old one or the new one, also
after a crash.
"""

import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from layertap.store.storage.errors import damaged, unreadable
from layertap.store.storage.objects import Buffer, Location, ObjectPath

# What a file is to be replaced with stands beside it.
NEW = ".new"
_SYNCS_AT_ONCE = 8
# No `zarr.json` is as large as this; one that is would only fill the memory.
_MOST_BYTES = 2**28


def read_json(file: Location) -> dict[str, Any]:
    """Returns what a `zarr.json` holds, or another file like it.

    Raises:
        FileNotFoundError: If there is none.
        NotADirectoryError: If there can be none.
        StoreCorruptError: If it is no JSON object.
        StoreError: If it can't be read.
    """
    content = file.read() if isinstance(file, ObjectPath) else _read(file)
    if len(content) > _MOST_BYTES:
        raise damaged(file, "is damaged: it is larger than any that is written")
    try:
        found = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        # The latter if it is nested without end.
        raise damaged(file, f"is damaged: it is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise damaged(file, "is damaged: it should be a JSON object")
    return found


def _read(file: Path) -> bytes:
    try:
        with open_plainly(file) as opened:
            found = os.fstat(opened.fileno())
            regular = stat.S_ISREG(found.st_mode)
            # Memory is taken for all that is asked for.
            most = min(found.st_size, _MOST_BYTES) + 1
            content = opened.read(most) if regular else b""
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR):
            raise damaged(
                file, "is a link or a folder, but should be a file"
            ) from error
        raise unreadable(file, error) from error
    if not regular:
        raise damaged(file, "is no file")
    return content


def open_plainly(file: Path) -> BinaryIO:
    """Opens a file to read, but not through links, nor waiting for a pipe."""

    def plainly(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    return open(file, "rb", opener=plainly)


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


def replace_files(contents: Mapping[Path, Iterable[Buffer]], mark: str = "") -> None:
    """Replaces files, each atomically, and all durably.

    No file is replaced before the new contents of all of them are on disk.

    Args:
        contents: What each file is to hold, in pieces. Their folders have to exist.
        mark: Of the names beside, where others may write the same files meanwhile.
    """
    new = [file.with_name(file.name + mark + NEW) for file in contents]
    # At the same time: a disk makes many files durable in little more time than one.
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        list(pool.map(_write, new, contents.values()))
        for written, file in zip(new, contents, strict=True):
            written.replace(file)
        list(pool.map(sync, {file.parent for file in contents}))


def _write(new: Path, content: Iterable[Buffer]) -> None:
    """Writes durably what a file is to be replaced with."""
    # One that a crash left; and, whatever it is, nothing is written through it.
    new.unlink(missing_ok=True)
    try:
        with new.open("xb") as opened:
            opened.writelines(content)
            opened.flush()
            os.fsync(opened.fileno())
    except BaseException:
        # A full disk is not to be kept full by what nobody will read.
        with suppress(OSError):
            new.unlink()
        raise


def sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
