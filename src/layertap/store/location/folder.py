"""The folder of a store: made whole, cut to what is committed, removed with care."""

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from layertap.errors import StoreError
from layertap.store.format.layout import METADATA_FILE, RECORDS, ArrayLayout, to_json
from layertap.store.format.metadata import groups
from layertap.store.format.root import Root, read_root
from layertap.store.location.base import Place, Size, new_files, opaque
from layertap.store.storage.errors import unreadable
from layertap.store.storage.files import NEW, replace_files, sync
from layertap.store.storage.lock import lock, lock_abandoned, release
from layertap.store.storage.objects import Buffer, Location

_CREATING, _REMOVING = "creating", "removing"
_TRIES = 10
# A shard, and what is written of one before it is whole; by layertap 0.1 under another
# name.
_SHARD = re.compile(rf"c(\.\d+)+((\.[0-9a-f]{{8}})?{re.escape(NEW)}|\.__lock)?")
# What says that a block was written, and the same before it is whole.
_RECORD = re.compile(rf"\d+\.\d+(\.[0-9a-f]{{8}}({re.escape(NEW)}){{1,2}})?")


class Folder(Place):
    """The folder of a store.

    It is locked by the operating system while it is claimed: see `locks`.

    Args:
        path: The folder, absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self._lock: int | None = None

    def exists(self) -> bool:
        """As of `Place`."""
        path = self.path
        try:
            if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                return False
        except OSError as error:
            raise unreadable(path, error) from error
        read_root(path)
        return True

    def create(
        self, root: Root, layouts: Sequence[ArrayLayout]
    ) -> Sequence[ArrayLayout]:
        """As of `Place`."""
        files = new_files(root, layouts)
        target = Path(os.path.realpath(self.path))
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
                raise self.already_there() from error
            raise
        self._lock = held
        return layouts

    def claim(self) -> None:
        """As of `Place`."""
        self._lock = lock(self.path, read_root(self.path).writer)

    def release(self) -> None:
        """As of `Place`."""
        held, self._lock = self._lock, None
        if held is not None:
            release(held)

    def replace(self, contents: Mapping[Location, Iterable[Buffer]]) -> None:
        """As of `Place`."""
        replace_files(_local(contents))

    def put(self, contents: Mapping[Location, Iterable[Buffer]]) -> None:
        """As of `Place`."""
        replace_files(_local(contents), mark=f".{uuid.uuid4().hex[:8]}")

    def add(self, file: Location, content: bytes) -> bool:
        """As of `Place`."""
        folder = Path(file).parent
        whole = folder / f"{file.name}.{uuid.uuid4().hex[:8]}{NEW}"
        try:
            replace_files({whole: [content]})
            # A rename would replace what another one has put there.
            os.link(whole, file)
        except FileExistsError:
            return False
        finally:
            whole.unlink(missing_ok=True)
        sync(folder)
        return True

    def names(self, folder: Location) -> list[str]:
        """As of `Place`."""
        try:
            return sorted(file.name for file in Path(folder).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(folder, error) from error

    def prepare(self, folder: Location) -> None:
        """As of `Place`."""
        Path(folder).mkdir(exist_ok=True)
        replace_files({Path(folder) / METADATA_FILE: [opaque(folder.name)]})
        sync(self.path)

    def delete(self, file: Location) -> None:
        """As of `Place`."""
        Path(file).unlink(missing_ok=True)

    def discard(self, folder: Location) -> None:
        """As of `Place`."""
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def mark(self, layouts: Sequence[ArrayLayout]) -> list[ArrayLayout]:
        """As of `Place`: the lock sees to it."""
        return list(layouts)

    def notice(self, files: Iterable[Location]) -> None:
        """As of `Place`: the lock sees to it that nobody else replaces them."""

    def cut(
        self, layouts: Sequence[ArrayLayout], even: Sequence[ArrayLayout]
    ) -> list[ArrayLayout]:
        """As of `Place`."""
        # First no reader must count on the rows any more.
        replace_files(
            {
                self.path / before.spec.path / METADATA_FILE: [
                    to_json(after.metadata())
                ]
                for before, after in zip(layouts, even, strict=True)
                if before != after
            }
        )
        # Of a file that it doesn't know, zarr-python warns.
        (self.path / (METADATA_FILE + NEW)).unlink(missing_ok=True)
        for layout in even:
            kept = set(map(layout.shard, range(layout.blocks)))
            for file in (self.path / layout.spec.path).iterdir():
                if file.name not in kept and file.name != METADATA_FILE and _ours(file):
                    file.unlink()
        return list(even)

    def remove(self) -> None:
        """As of `Place`."""
        path = where = self.path
        root = read_root(path)
        try:
            self._lock = lock(path, root.writer)
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
                f"{path} could not be deleted{moved}: {error.strerror}. Delete it by "
                "hand."
            ) from error
        finally:
            self.release()

    def size(self, layout: ArrayLayout) -> Size:
        """As of `Place`."""
        folder = self.path / layout.spec.path
        try:
            # What is being written has another name in a moment.
            files = [file for file in folder.iterdir() if file.suffix != NEW]
            return Size(len(files), sum(file.stat().st_size for file in files))
        except OSError as error:
            raise unreadable(folder, error) from error


def _local(
    contents: Mapping[Location, Iterable[Buffer]],
) -> dict[Path, Iterable[Buffer]]:
    return {Path(file): content for file, content in contents.items()}


def _sweep(target: Path) -> None:
    """Deletes what killed processes left beside a store, half made or half deleted."""
    for purpose in (_CREATING, _REMOVING):
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.{purpose}"):
            # Unless that process is still at it.
            held = lock_abandoned(left)
            if held is not None:
                shutil.rmtree(left, ignore_errors=True)
                release(held)


def _foreign(path: Path, root: Root) -> Iterator[Path]:
    """Yields what is in the folder of a store, but was not put there by layertap."""
    arrays = {path / array for array in root.arrays}
    records = path / RECORDS
    inner = arrays | {path / group for group in groups(root.arrays)} | {records}
    for here, folders, files in os.walk(path, onerror=_raise):
        folder = Path(here)
        for name in files:
            record = folder == records and _RECORD.fullmatch(name)
            if not record and not _ours(folder / name, shards=folder in arrays):
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
