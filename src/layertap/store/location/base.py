"""Where a store is, as those see it who change it: a folder, or a part of a bucket."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from layertap.errors import StoreError
from layertap.store.format.layout import (
    METADATA_FILE,
    ArrayLayout,
    ArraySpec,
    group_metadata,
    to_json,
)
from layertap.store.format.metadata import groups
from layertap.store.format.root import Root
from layertap.store.storage.objects import Buffer, Location


class Size(NamedTuple):
    """What an array takes where it is stored.

    Args:
        files: The number of its files, or objects.
        bytes: Their bytes, or None where nothing tells without reading them.
    """

    files: int
    bytes: int | None


class Place(ABC):
    """Where a store is, or is to be. One writer at a time has it, who claims it first.

    Attributes:
        path: What the names of its files begin with.
    """

    path: Location

    @abstractmethod
    def exists(self) -> bool:
        """Returns whether there is a store; an empty folder is none.

        Raises:
            NotAStoreError: If there is something else.
            StoreFormatError: If there is the store of a newer layertap.
            StoreCorruptError: If there is a damaged one.
        """

    @abstractmethod
    def create(
        self, root: Root, layouts: Sequence[ArrayLayout]
    ) -> Sequence[ArrayLayout]:
        """Makes a store that has no rows, whole or not at all, and claims it.

        Args:
            root: Its root.
            layouts: Its arrays.

        Returns:
            The arrays as they are then.

        Raises:
            StoreError: If another process has made one there in the meantime.
            OSError: If none can be made.
        """

    @abstractmethod
    def claim(self) -> None:
        """Keeps other writers out of the store, until `release` or the process ends.

        Raises:
            NotAStoreError: If there is no store.
            StoreError: If another writer has it.
            OSError: If it can't be claimed.
        """

    @abstractmethod
    def release(self) -> None:
        """Lets other writers in again."""

    @abstractmethod
    def replace(self, contents: Mapping[Location, Iterable[Buffer]]) -> None:
        """Replaces files, each atomically, and all durably.

        Args:
            contents: What each file is to hold, in pieces.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def put(self, contents: Mapping[Location, Iterable[Buffer]]) -> None:
        """Replaces files as `replace` does, where others may do so at the same time.

        Args:
            contents: As of `replace`.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def add(self, file: Location, content: bytes) -> bool:
        """Makes a file that nobody else has made.

        Args:
            file: The file. Its folder has to exist.
            content: What it is to hold.

        Returns:
            Whether it was made; if not, there is one.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def names(self, folder: Location) -> list[str]:
        """Returns the names of what is in a folder, sorted; none if there is none.

        Raises:
            StoreError: If it can't be read.
        """

    @abstractmethod
    def prepare(self, folder: Location) -> None:
        """Makes a folder in the store that holds what is none of Zarr's.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def delete(self, file: Location) -> None:
        """Deletes a file, if it is there.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def discard(self, folder: Location) -> None:
        """Deletes all that is in a folder of the store.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def mark(self, layouts: Sequence[ArrayLayout]) -> list[ArrayLayout]:
        """Makes sure that no writer who had the store before commits any more.

        Args:
            layouts: The arrays of the store.

        Returns:
            The arrays as they are then.

        Raises:
            OSError: If that is not possible.
        """

    @abstractmethod
    def notice(self, files: Iterable[Location]) -> None:
        """Notes how files are now that are going to be replaced.

        Raises:
            OSError: If one can't be read.
        """

    @abstractmethod
    def cut(
        self, layouts: Sequence[ArrayLayout], even: Sequence[ArrayLayout]
    ) -> list[ArrayLayout]:
        """Deletes what an interrupted writer left behind the rows that all arrays have.

        Args:
            layouts: The arrays of the store.
            even: The arrays, all with the same number of rows.

        Returns:
            The arrays as they are then.
        """

    @abstractmethod
    def remove(self) -> None:
        """Deletes the store.

        Raises:
            NotAStoreError: If there is none: nothing is deleted then.
            StoreError: If the store is being written, or something else is in its
                place: nothing is deleted then either.
        """

    @abstractmethod
    def size(self, layout: ArrayLayout) -> Size:
        """Returns what an array takes.

        Raises:
            StoreError: If that can't be read.
        """

    def already_there(self) -> StoreError:
        """Returns what to tell where a store is to be made, and there is one."""
        try:
            self.claim()
            self.release()
        except StoreError as error:
            return error
        return StoreError(
            f"There is a store at {self.path} already. Resume it, remove it, or choose "
            "another path."
        )


def opaque(name: str) -> bytes:
    """Returns the `zarr.json` of a folder that foreign readers do not look into.

    They take it for an array without rows. Of unknown files in a group, zarr-python
    warns.
    """
    empty = ArrayLayout(ArraySpec(name, (), "uint8"), 0, 1, 1, None)
    return to_json(empty.described() | {"attributes": {}})


def new_files(root: Root, layouts: Iterable[ArrayLayout]) -> dict[str, bytes]:
    """Returns the files of a store without rows, by their names inside of it."""
    files = {METADATA_FILE: root.contents()}
    for group in groups(root.arrays):
        files[f"{group}/{METADATA_FILE}"] = to_json(group_metadata({}))
    for layout in layouts:
        files[f"{layout.spec.path}/{METADATA_FILE}"] = to_json(layout.metadata())
    return files
