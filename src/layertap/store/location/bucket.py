"""A store in a bucket: no renames, no locks, but conditions.

A second writer changes the metadata of all arrays: the first one's next commit is
refused, since the object is not the one that it wrote last.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from layertap.errors import StoreError
from layertap.store.format.layout import Layouts
from layertap.store.format.root import Root, pending_root, pending_writer
from layertap.store.format.zarr_json import METADATA_FILE
from layertap.store.location.base import Location, new_files
from layertap.store.storage.errors import TakenError
from layertap.store.storage.lock import taken, this_process
from layertap.store.storage.objects import ObjectStorage


class Bucket(Location):
    """A store in a bucket: all objects below a key."""

    storage: ObjectStorage

    def _is_free(self) -> bool:
        content = self._read_root()
        if content is None:
            if not any(self.storage.names()):
                return True
            # Another process may have put its root since.
            content = self._read_root()
        return pending_writer(content) is not None

    def _read_root(self) -> Mapping[str, Any] | None:
        with suppress(FileNotFoundError):
            return self.storage.read_json(METADATA_FILE)
        return None

    def create(self, root: Root, layouts: Layouts) -> Layouts:
        """See `Location`: whoever puts the root first makes the store."""
        ours = self._marked(layouts)
        files = new_files(root, ours)
        root_contents = files.pop(METADATA_FILE)
        try:
            self._begin()
            self.storage.replace(files)
            self.storage.replace({METADATA_FILE: root_contents})
        except BaseException:
            self.release()
            raise
        return ours

    def _begin(self) -> None:
        """Puts a root that says who makes the store, and deletes half of one."""
        content = self._read_root()
        writer = pending_writer(content)
        if content is not None and writer is None:
            raise self.already_exists()
        self._lock = self.storage.lock(writer)
        try:
            self._clear()
        except TakenError as error:
            self.release()
            raise self.already_exists() from error

    def _clear(self) -> None:
        """Puts a root that says by whom the store is cleared, and deletes the rest."""
        self.storage.replace({METADATA_FILE: [pending_root(this_process())]})
        self.storage.delete(n for n in self.storage.names() if n != METADATA_FILE)

    def already_exists(self) -> StoreError:
        """See `Location`."""
        writer = pending_writer(self._read_root())
        return taken(self.storage, writer) if writer else super().already_exists()

    def _marked(self, layouts: Layouts) -> Layouts:
        # With another mark, they are other objects, even if they say the same.
        mark = uuid.uuid4().hex[:8]
        return [replace(layout, writer=mark) for layout in layouts]

    def _delete_all(self) -> None:
        self._clear()
        self.storage.delete([METADATA_FILE], if_unchanged=True)
