"""Where a store is, parsed once from its path, and whether there is one."""

import os

from layertap.errors import OptionError
from layertap.store.location.base import Location
from layertap.store.location.bucket import Bucket
from layertap.store.location.folder import Folder
from layertap.store.storage.files import LocalStorage
from layertap.store.storage.objects import ObjectStorage


def locate(path: str | os.PathLike[str]) -> Location:
    """Returns the location of a store: a folder, or a URL of S3 or Google Storage."""
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise OptionError(
            "The path of the store is invalid. Expected a string or a path, without "
            f"NUL characters. Received {path!r}."
        )
    objects = ObjectStorage.parse(path)
    return Folder(LocalStorage(path)) if objects is None else Bucket(objects)


def exists(path: str | os.PathLike[str]) -> bool:
    """Returns whether there is a store; raises NotAStoreError for other data."""
    return locate(path).exists()


def remove(path: str | os.PathLike[str]) -> None:
    """Deletes a store; nothing is deleted if it is being written, or not only ours."""
    locate(path).remove()
