"""A store in a folder: made by a rename, locked by the operating system."""

import errno
import glob
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from layertap.store.format.layout import Layouts
from layertap.store.format.root import Root
from layertap.store.format.zarr_json import METADATA_FILE
from layertap.store.location.base import Location, new_files, not_deleted
from layertap.store.storage.errors import unreadable
from layertap.store.storage.files import NEW, LocalStorage, sync
from layertap.store.storage.lock import lock_abandoned, lock_folder

_CREATING, _REMOVING = "creating", "removing"


class Folder(Location):
    """A store in a folder."""

    storage: LocalStorage

    def _is_free(self) -> bool:
        folder = self.storage.folder
        try:
            return not folder.exists() or (
                folder.is_dir() and not any(folder.iterdir())
            )
        except OSError as error:
            raise unreadable(folder, error) from error

    def create(self, root: Root, layouts: Layouts) -> Layouts:
        """See `Location`: the store is made next to its place, then renamed."""
        files = new_files(root, layouts)
        target = Path(os.path.realpath(self.storage.folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.sweep()
        lock = None
        try:
            while lock is None:
                building = _sibling(target, _CREATING)
                building.mkdir()
                # Another process may sweep it away before it is locked.
                with suppress(FileNotFoundError):
                    lock = lock_folder(building)
            for name in files:
                (building / name).parent.mkdir(parents=True, exist_ok=True)
            LocalStorage(building).replace(files)
            building.rename(target)
            sync(target.parent)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if lock is not None:
                lock.release()
            if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                raise self.already_exists() from error
            raise
        lock.path = str(target)
        self._lock = lock
        return layouts

    def sweep(self) -> tuple[int, int]:
        """See `Location`: such stores lie next to it."""
        target = Path(os.path.realpath(self.storage.folder))
        files = size = 0
        for purpose in (_CREATING, _REMOVING):
            for left in target.parent.glob(f".{glob.escape(target.name)}.*.{purpose}"):
                # Unless that process is still at work.
                lock = lock_abandoned(left)
                if lock is not None:
                    storage = LocalStorage(left)
                    names = list(storage.names())
                    files, size = files + len(names), size + storage.bytes_of(names)
                    shutil.rmtree(left, ignore_errors=True)
                    lock.release()
        return files, size

    def trim(self, before: Layouts, after: Layouts) -> Layouts:
        """See `Location`."""
        ours = super().trim(before, after)
        # zarr-python warns of files that it does not know.
        self.storage.delete([METADATA_FILE + NEW])
        return ours

    def _delete_all(self) -> None:
        target = Path(os.path.realpath(self.storage.folder))
        removed = target.rename(_sibling(target, _REMOVING))
        try:
            shutil.rmtree(removed)
        except OSError as error:
            moved = f", and the rest of it is now at {removed}"
            raise not_deleted(self.storage, error, moved) from error


def _sibling(path: Path, purpose: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{purpose}")
