"""Which place a path is, and what is there."""

import os
from pathlib import Path

from layertap.store.location.base import Place
from layertap.store.location.bucket import Bucket
from layertap.store.location.folder import Folder
from layertap.store.storage.objects import Location, parse


def locate(path: str | os.PathLike[str]) -> Location:
    """Returns a path as one that the names in a store are added to by `/`.

    Args:
        path: Of a folder; or `s3://bucket/key`, or `gs://bucket/key`.

    Raises:
        OptionError: If it can't be the place of a store.
        BackendMissingError: If it takes TensorStore, which is not installed.
    """
    return parse(path) or Path(path).absolute()


def place(path: str | os.PathLike[str]) -> Place:
    """Returns the place of a store, for whoever changes it: see `locate`."""
    found = locate(path)
    return Folder(found) if isinstance(found, Path) else Bucket(found)


def exists(path: str | os.PathLike[str]) -> bool:
    """Returns whether there is a store at a path; an empty folder is none.

    Args:
        path: Of the store.

    Raises:
        NotAStoreError: If there is something else.
        StoreFormatError: If there is the store of a newer layertap.
        StoreCorruptError: If there is a damaged one.
    """
    return place(path).exists()


def remove(path: str | os.PathLike[str]) -> None:
    """Deletes a store.

    Args:
        path: Of the store.

    Raises:
        NotAStoreError: If there is none: nothing is deleted then.
        StoreError: If the store is being written, or something else is in its place:
            nothing is deleted then either.
    """
    place(path).remove()
