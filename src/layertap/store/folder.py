"""The folder of a store: made whole, cut to what is committed, removed with care."""

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from layertap.errors import StoreError
from layertap.store.faults import unreadable
from layertap.store.files import NEW, replace_files, sync
from layertap.store.layout import METADATA_FILE, ArrayLayout, group_metadata, to_json
from layertap.store.locks import lock, lock_abandoned, release
from layertap.store.parsing import groups
from layertap.store.root import Root, read_root

_CREATING, _REMOVING = "creating", "removing"
_TRIES = 10
# A shard, and what is written of one before it is whole; by layertap 0.1 under another
# name.
_SHARD = re.compile(rf"c(\.\d+)+({re.escape(NEW)}|\.__lock)?")


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
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return False
    except OSError as error:
        raise unreadable(path, error) from error
    read_root(path)
    return True


def create(path: Path, root: Root, layouts: Iterable[ArrayLayout]) -> int:
    """Makes the folder of a store that has no rows, whole or not at all.

    Args:
        path: Where to; nothing or an empty folder is there.
        root: Its root.
        layouts: Its arrays.

    Returns:
        The lock of the store, as `locks.lock` gives it.

    Raises:
        StoreError: If another process has made a store there in the meantime.
        OSError: If none can be made.
    """
    files = {METADATA_FILE: root.contents()}
    for group in groups(root.arrays):
        files[f"{group}/{METADATA_FILE}"] = to_json(group_metadata({}))
    for layout in layouts:
        files[f"{layout.spec.path}/{METADATA_FILE}"] = to_json(layout.metadata())
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    for _ in range(_TRIES):
        building = _sibling(target, _CREATING)
        building.mkdir()
        held = lock_abandoned(building)
        if held is not None or building.is_dir():
            break
        # Another process has just swept it away, before it could be locked.
    try:
        if held is None:
            held = lock(building)
        for file in files:
            (building / file).parent.mkdir(parents=True, exist_ok=True)
        replace_files({building / file: [files[file]] for file in files})
        building.rename(target)
        sync(target.parent)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if held is not None:
            release(held)
        if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
            raise already_there(path) from error
        raise
    return held


def already_there(path: Path) -> StoreError:
    """Returns what to tell where a store is to be made, and there is one."""
    try:
        release(lock(path, read_root(path).writer))
    except StoreError as error:
        return error
    return StoreError(
        f"There is a store at {path} already. Resume it, remove it, or choose another "
        "path."
    )


def _sweep(target: Path) -> None:
    """Deletes what killed processes left beside a store, half made or half deleted."""
    for purpose in (_CREATING, _REMOVING):
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.{purpose}"):
            # Unless that process is still at it.
            held = lock_abandoned(left)
            if held is not None:
                shutil.rmtree(left, ignore_errors=True)
                release(held)


def cut(
    path: Path, layouts: Sequence[ArrayLayout], even: Sequence[ArrayLayout]
) -> None:
    """Deletes what an interrupted writer left behind the rows that all arrays have.

    Args:
        path: The folder of the store.
        layouts: Its arrays.
        even: Its arrays, all with the same number of rows.
    """
    # First no reader must count on the rows any more.
    replace_files(
        {
            path / before.spec.path / METADATA_FILE: [to_json(after.metadata())]
            for before, after in zip(layouts, even, strict=True)
            if before != after
        }
    )
    # Of a file that it doesn't know, zarr-python warns.
    (path / (METADATA_FILE + NEW)).unlink(missing_ok=True)
    for layout in even:
        kept = set(map(layout.shard, range(layout.blocks)))
        for file in (path / layout.spec.path).iterdir():
            if file.name not in kept and file.name != METADATA_FILE and _ours(file):
                file.unlink()


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
    where = path
    held = None
    try:
        held = lock(path, root.writer)
        foreign = next(_foreign(path, root), None)
        if foreign is not None:
            raise StoreError(
                f"{foreign} is inside the store {path}, but is no part of it. "
                "Move it away; nothing was deleted."
            )
        target = Path(os.path.realpath(path))
        # No other process is to meet a store that is half deleted.
        where = target.rename(_sibling(target, _REMOVING))
        shutil.rmtree(where)
    except StoreError:
        raise
    except OSError as error:
        moved = "" if where == path else f" and is now {where}, what is left of it"
        raise StoreError(
            f"{path} could not be deleted{moved}: {error.strerror}. Delete it by hand."
        ) from error
    finally:
        if held is not None:
            release(held)


def _foreign(path: Path, root: Root) -> Iterator[Path]:
    """Yields what is in the folder of a store, but was not put there by layertap."""
    arrays = {path / array for array in root.arrays}
    inner = arrays | {path / group for group in groups(root.arrays)}
    for here, folders, files in os.walk(path, onerror=_raise):
        folder = Path(here)
        for name in files:
            if not _ours(folder / name, shards=folder in arrays):
                yield folder / name
        for name in folders:
            if folder / name not in inner or (folder / name).is_symlink():
                yield folder / name


def _raise(error: OSError) -> None:
    # What can't be searched may hold anything.
    raise error


def _ours(file: Path, shards: bool = True) -> bool:
    """Whether a file, by its name, is one that layertap writes."""
    plain = file.name in (METADATA_FILE, METADATA_FILE + NEW)
    return plain or (shards and _SHARD.fullmatch(file.name) is not None)


def _sibling(path: Path, purpose: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{purpose}")
