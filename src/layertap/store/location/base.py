"""Where a store is: made, locked, trimmed to its committed rows, and removed there."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from layertap.errors import StoreError
from layertap.store.format.layout import RECORDS, ArrayLayout, Layouts
from layertap.store.format.metadata import group_paths
from layertap.store.format.root import Root, read_root
from layertap.store.format.zarr_json import METADATA_FILE, group_metadata, to_json
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import TakenError, write_error
from layertap.store.storage.lock import Lock

_LISTS_AT_ONCE = 8

# The end of the name of a file that does not replace the old one yet.
_NEW = r"(\.[0-9a-f]{8})?\.new"
_METADATA = re.compile(rf"{re.escape(METADATA_FILE)}({_NEW})?")
_OF_ARRAY = re.compile(rf"({re.escape(METADATA_FILE)}|c(\.\d+)+)({_NEW})?")
_RECORD = re.compile(r"\d+\.\d+(\.[0-9a-f]{8}(\.new){1,2})?")


class ArraySize(NamedTuple):
    """How many files an array has, and their bytes if these are known.

    They are not for a compressed array in a bucket: its objects would have to be read.
    """

    files: int
    bytes: int | None


class Location(ABC):
    """Where a store is or will be. One writer at a time has it, who locks it first."""

    _lock: Lock | None = None

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def exists(self) -> bool:
        """Returns whether there is a store; raises NotAStoreError for other data."""
        if self._is_free():
            return False
        read_root(self.storage)
        return True

    @abstractmethod
    def _is_free(self) -> bool:
        """Returns whether there is nothing yet, or only a part of a store."""

    @abstractmethod
    def create(self, root: Root, layouts: Layouts) -> Layouts:
        """Makes a store without rows, completely or not at all, and locks it."""

    def lock(self) -> None:
        """Keeps other writers out of the store, until `release` or the process ends."""
        self._lock = self.storage.lock(read_root(self.storage).writer)

    def release(self) -> None:
        """Lets other writers into the store again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def already_exists(self) -> StoreError:
        """Returns the error of a store that is to be made where there is one."""
        try:
            self.lock()
            self.release()
        except StoreError as error:
            return error
        return StoreError(
            f"There is a store at {self.storage} already. Resume it, remove it, or "
            "choose another path."
        )

    def write_root(self, root: Root) -> None:
        """Replaces the metadata of the store."""
        self.storage.replace({METADATA_FILE: [root.contents]})

    def commit(self, before: Layouts, after: Layouts) -> None:
        """Replaces the metadata of changed arrays: their rows count from now on."""
        pairs = zip(before, after, strict=True)
        changed = [layout for earlier, layout in pairs if layout != earlier]
        self.storage.replace(_contents(changed))

    def take_over(self, before: Layouts, after: Layouts) -> Layouts:
        """Commits changed arrays, so that no earlier writer commits any more."""
        ours = self._marked(after)
        self.commit(before, ours)
        return ours

    def _marked(self, layouts: Layouts) -> Layouts:
        """Returns arrays with the mark of this writer, where nothing locks a store."""
        return layouts

    def trim(self, before: Layouts, after: Layouts) -> Layouts:
        """Takes over the arrays, and deletes what an interrupted writer left."""
        # First, no reader may count on the rows any more.
        ours = self.take_over(before, after)
        # Some arrays have so many blocks that a bucket lists them in many answers.
        with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
            for names in pool.map(self._leftovers, ours):
                self.storage.delete(names)
        return ours

    def _leftovers(self, layout: ArrayLayout) -> list[str]:
        folder = layout.spec.path
        current = {METADATA_FILE, *map(layout.shard_name, range(layout.blocks))}
        return [
            f"{folder}/{name}"
            for name in self.storage.names(folder)
            if name not in current and _OF_ARRAY.fullmatch(name)
        ]

    def sweep(self) -> tuple[int, int]:
        """Deletes half made and half deleted stores that killed processes left.

        Returns the number of their files, and their bytes.
        """
        return 0, 0

    def remove(self) -> None:
        """Deletes the store; nothing is deleted if there are other files in it."""
        try:
            self.lock()
            root = read_root(self.storage)
            inner = {"", *group_paths(root.arrays), *root.arrays, RECORDS}
            for name in self.storage.names():
                if not _is_own(name, inner, root.arrays):
                    raise StoreError(
                        f"{self.storage.path_of(name.rstrip('/'))} is inside the store "
                        f"{self.storage}, but does not belong to it. Nothing was "
                        "deleted. Move it away."
                    )
            self._delete_all()
        except TakenError as error:
            raise write_error(error, self.storage, 0) from error
        except StoreError:
            raise
        except OSError as error:
            raise not_deleted(self.storage, error) from error
        finally:
            self.release()

    @abstractmethod
    def _delete_all(self) -> None:
        """Deletes all files, so that nobody sees a store that is half deleted."""


def not_deleted(storage: Storage, error: OSError, moved: str = "") -> StoreError:
    """Returns the error of a store that could not be deleted."""
    return StoreError(
        f"{storage} could not be deleted{moved}: {error.strerror}. Delete it by hand."
    )


def _is_own(name: str, inner: Collection[str], arrays: Collection[str]) -> bool:
    """Returns whether layertap writes files, or folders, of such a name."""
    folder, _, file = name.rpartition("/")
    if folder not in inner:
        return False
    return bool(
        not file
        or _METADATA.fullmatch(file)
        or (folder in arrays and _OF_ARRAY.fullmatch(file))
        or (folder == RECORDS and _RECORD.fullmatch(file))
    )


def array_size(storage: Storage, layout: ArrayLayout) -> ArraySize:
    """Returns how many files an array has, and how large they are together."""
    files, size = storage.size(layout.spec.path)
    if size is None and layout.compression is None:
        blocks = map(layout.row_range, range(layout.blocks))
        size = sum(layout.shard_sizes(len(rows))[0] for rows in blocks)
        size += len(to_json(layout.metadata()))
    return ArraySize(files, size)


def new_files(root: Root, layouts: Layouts) -> dict[str, list[bytes]]:
    """Returns the files of a store without rows, by their names."""
    group = to_json(group_metadata({}))
    return {
        METADATA_FILE: [root.contents],
        **{f"{path}/{METADATA_FILE}": [group] for path in group_paths(root.arrays)},
        **_contents(layouts),
    }


def _contents(layouts: Layouts) -> dict[str, list[bytes]]:
    return {layout.metadata_file: [to_json(layout.metadata())] for layout in layouts}
