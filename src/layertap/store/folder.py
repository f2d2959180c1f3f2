"""The folder of a store: made whole, changed atomically, locked, removed with care.

A `zarr.json` is never written in place: a reader sees the old one or the new one, also
after a crash.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

from layertap.errors import StoreError
from layertap.store.layout import METADATA_FILE, ArrayLayout, group_metadata, to_json
from layertap.store.root import Root, read_root

_NEW = METADATA_FILE + ".new"
_SYNCS_AT_ONCE = 8


def exists(path: str | os.PathLike[str]) -> bool:
    """Returns whether there is a store at a path; an empty folder is none.

    Args:
        path: The folder of the store.

    Raises:
        NotAStoreError: If there is something else.
        StoreFormatError: If there is the store of a newer layertap.
        StoreCorruptError: If there is a damaged one.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    read_root(path)
    return True


def create(path: Path, root: Root, layouts: Iterable[ArrayLayout]) -> int:
    """Makes the folder of a store that has no rows, whole or not at all.

    Args:
        path: Where to; nothing or an empty folder is there.
        root: Its root.
        layouts: Its arrays.

    Returns:
        The lock of the store, as `lock` gives it.
    """
    files = {METADATA_FILE: root.contents()}
    for layout in layouts:
        array = PurePosixPath(layout.spec.path)
        files[str(array / METADATA_FILE)] = to_json(layout.metadata())
        for parent in array.parents[:-1]:
            files[str(parent / METADATA_FILE)] = to_json(group_metadata({}))
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    building = _sibling(target, "creating")
    building.mkdir()
    held = None
    try:
        held = lock(building)
        for file in files:
            (building / file).parent.mkdir(parents=True, exist_ok=True)
        replace_files({building / file: files[file] for file in files})
        building.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        if held is not None:
            os.close(held)
        raise
    return held


def cut(path: Path, layouts: Sequence[ArrayLayout]) -> list[ArrayLayout]:
    """Deletes what an interrupted writer left behind the rows that all arrays have.

    Args:
        path: The folder of the store.
        layouts: Its arrays.

    Returns:
        Its arrays, all with the same number of rows.
    """
    rows = min(layout.rows for layout in layouts)
    even = [replace(layout, rows=rows) for layout in layouts]
    # First no reader must count on the rows any more.
    replace_files(
        {
            path / before.spec.path / METADATA_FILE: to_json(after.metadata())
            for before, after in zip(layouts, even, strict=True)
            if before.rows != rows
        }
    )
    # Of a file that it doesn't know, zarr-python warns.
    (path / _NEW).unlink(missing_ok=True)
    for layout in even:
        blocks = -(-rows // layout.block_rows)
        kept = set(map(layout.shard, range(blocks)))
        for file in (path / layout.spec.path).iterdir():
            if file.name not in kept and file.name.startswith("c."):
                file.unlink()
    return even


def remove(path: str | os.PathLike[str]) -> None:
    """Deletes a store.

    Args:
        path: The folder of the store.

    Raises:
        NotAStoreError: If there is none: nothing is deleted then.
        StoreError: If the store is being written, or something else is in its folder:
            nothing is deleted then either.
    """
    path = Path(path)
    root = read_root(path)
    held = lock(path)
    try:
        foreign = next(_foreign(path, root), None)
        if foreign is not None:
            raise StoreError(
                f"{foreign} is inside the store {path}, but is no part of it. "
                "Move it away; nothing was deleted."
            )
        target = Path(os.path.realpath(path))
        # No other process is to meet a store that is half deleted.
        shutil.rmtree(target.rename(_sibling(target, "removing")))
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{path} could not be deleted: {error.strerror}. Delete it by hand."
        ) from error
    finally:
        os.close(held)


def _foreign(path: Path, root: Root) -> Iterator[Path]:
    """Yields what is in the folder of a store, but was not put there by layertap."""
    arrays = {path / array for array in root.arrays}
    groups = {parent for array in arrays for parent in array.parents}
    for here, folders, files in os.walk(path):
        folder = Path(here)
        for name in files:
            shard = folder in arrays and name.startswith("c.")
            if not shard and name not in (METADATA_FILE, _NEW):
                yield folder / name
        for name in folders:
            if folder / name not in arrays | groups:
                yield folder / name


def lock(path: Path) -> int:
    """Keeps other writers out of a store.

    Returns:
        A file descriptor. The lock is held until that is closed, or its process ends.

    Raises:
        StoreError: If another writer has it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(
            f"{path} is being written already, by this process or another one. "
            "Wait until that has ended, or write to another path."
        ) from error
    except OSError:
        # Some network file systems can't lock folders. They are used without.
        return descriptor
    return descriptor


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Replaces files, each atomically, and all durably.

    No file is replaced before the new contents of all of them are on disk.

    Args:
        contents: What each file is to hold. Their folders have to exist.
    """
    # At the same time: a disk makes many files durable in little more time than one.
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        list(pool.map(_write_beside, contents.keys(), contents.values()))
        for file in contents:
            file.with_name(_NEW).replace(file)
        list(pool.map(_sync, {file.parent for file in contents}))


def _write_beside(file: Path, content: bytes) -> None:
    """Writes durably what a file is to be replaced with."""
    with file.with_name(_NEW).open("wb") as new:
        new.write(content)
        new.flush()
        os.fsync(new.fileno())


def _sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sibling(path: Path, purpose: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{purpose}")
