"""The byte-level interface of a storage: the files of one store, by their names."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from layertap.store.storage.errors import damaged
from layertap.store.storage.lock import Lock, WriterRecord

Buffer = bytes | memoryview
Contents = Mapping[str, Iterable[Buffer]]

# A larger `zarr.json` is damaged; reading it would only fill the memory.
MOST_JSON_BYTES = 2**28


class Storage(ABC):
    """The files of one store, each with a name such as `"fusion/in/0/zarr.json"`.

    Readers and writers use a storage alone, whether the files lie in a folder or are
    the objects of a bucket. A file is replaced atomically: a reader sees its old
    content or its new content, also after a crash. `str` and `os.fspath` return the
    path or the URL of the store.
    """

    @abstractmethod
    def __fspath__(self) -> str:
        """Returns the path or the URL of the store."""

    def __str__(self) -> str:
        return os.fspath(self)

    def path_of(self, name: str) -> str:
        """Returns the path or the URL of a file, for messages.

        Args:
            name: The name of the file.
        """
        return f"{self}/{name}"

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Returns the content of a small file; of one above `MOST_JSON_BYTES`, a part.

        Args:
            name: The name of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            NotADirectoryError: If a file lies where its folder should be.
            StoreCorruptError: If it is a link or a folder, or a link leads to it.
            StoreError: If it can't be read.
        """

    def read_json(self, name: str) -> dict[str, Any]:
        """Returns the JSON object in a file.

        Args:
            name: The name of the file.

        Raises:
            FileNotFoundError: See `read`.
            NotADirectoryError: See `read`.
            StoreCorruptError: If the file does not hold a JSON object; see `read`.
            StoreError: See `read`.
        """
        file, content = self.path_of(name), self.read(name)
        if len(content) > MOST_JSON_BYTES:
            raise damaged(file, "is damaged: it is larger than any that is written")
        try:
            value = json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            # The latter if it is nested without end.
            raise damaged(file, f"is damaged: it is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise damaged(file, "is damaged: it should be a JSON object")
        return value

    @abstractmethod
    def names(self, folder: str = "") -> Iterator[str]:
        """Yields the names of all files in a folder and in its folders, in no order.

        A link to a folder is listed like a file, and an empty folder with a `/` at its
        end. Nothing is listed if there is no such folder.

        Args:
            folder: The name of the folder. The names of its files are relative to it.

        Raises:
            StoreError: If it can't be listed.
        """

    @abstractmethod
    def size(self, folder: str) -> tuple[int, int | None]:
        """Returns the number of files in a folder, and their bytes, None if unknown.

        Args:
            folder: The name of the folder.

        Raises:
            StoreError: If it can't be listed.
        """

    def bytes_of(self, names: Iterable[str]) -> int | None:
        """Returns the bytes of some files together, or None if they are unknown.

        Args:
            names: The names of the files.
        """
        return None

    @abstractmethod
    def replace(self, contents: Contents) -> None:
        """Writes files durably, each atomically, for the only writer of the store.

        No file is replaced before the contents of all files are written, if the
        storage can rename files.

        Args:
            contents: For each file its content, in pieces.

        Raises:
            TakenError: If another process has written one of the files since this
                storage last read or wrote it, and no lock prevents that.
            OSError: If a file can't be written.
        """

    @abstractmethod
    def overwrite(self, contents: Contents) -> None:
        """Writes files as `replace` does, while others may write the same files.

        Args:
            contents: For each file its content, in pieces.

        Raises:
            OSError: If a file can't be written.
        """

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Writes a new file durably, unless there is one of this name.

        Args:
            name: The name of the file.
            content: Its content.

        Returns:
            Whether this call made the file.

        Raises:
            OSError: If the file can't be written.
        """

    @abstractmethod
    def remember(self, names: Iterable[str]) -> None:
        """Remembers the versions of files that `replace` is going to replace.

        Args:
            names: The names of files that this storage has not read.

        Raises:
            OSError: If a file can't be read.
        """

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Deletes files. Those that are missing are skipped.

        Args:
            names: The names of the files.

        Raises:
            OSError: If a file can't be deleted.
        """

    @abstractmethod
    def make_folder(self, folder: str) -> None:
        """Makes a folder durably, unless there is one.

        Args:
            folder: The name of the folder.

        Raises:
            OSError: If the folder can't be made.
        """

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Deletes a folder with all its files, if there is one.

        Args:
            folder: The name of the folder.

        Raises:
            OSError: If a file can't be deleted.
        """

    @abstractmethod
    def lock(self, writer: WriterRecord | None) -> Lock:
        """Keeps other writers out of the store, until the lock is released.

        The lock ends with its process, however that ends.

        Args:
            writer: The record of the last writer, if it did not close the store.

        Returns:
            The lock.

        Raises:
            StoreError: If another writer has the store.
            OSError: If the store can't be locked.
        """


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")
