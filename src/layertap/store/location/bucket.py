"""A store in a bucket of an object store: no renames, no locks, but conditions.

An object is put whole or not at all, and only if it is still as this writer saw it
last. So no two writers can mix what they write: whoever comes second changes all
markers, and the first one's next commit is refused.
"""

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from layertap.errors import StoreError
from layertap.store.format.layout import METADATA_FILE, RECORDS, ArrayLayout, to_json
from layertap.store.format.metadata import groups
from layertap.store.format.root import Root, pending, pending_writer, read_root
from layertap.store.location.base import Place, Size, new_files, opaque
from layertap.store.storage import objects
from layertap.store.storage.errors import write_error
from layertap.store.storage.files import read_json
from layertap.store.storage.lock import alive, taken, this_process
from layertap.store.storage.objects import Buffer, Location, ObjectPath, TakenError

_LISTS_AT_ONCE = 8

# By URL, what writes that store in this process.
_claimed: dict[str, "Bucket"] = {}
os.register_at_fork(after_in_child=_claimed.clear)


class Bucket(Place):
    """All objects below a key.

    Args:
        path: The key.
    """

    def __init__(self, path: ObjectPath) -> None:
        self.path: ObjectPath = path
        self._root = path / METADATA_FILE

    def exists(self) -> bool:
        """As of `Place`."""
        try:
            content = read_json(self._root)
        except FileNotFoundError:
            if not self.path.names():
                return False
            content = {}
        if pending_writer(content) is not None:
            return False
        read_root(self.path)
        return True

    def create(
        self, root: Root, layouts: Sequence[ArrayLayout]
    ) -> Sequence[ArrayLayout]:
        """As of `Place`."""
        # Whoever puts the root first makes the store; the others are refused.
        self._begin()
        mine = _marked(layouts)
        files = new_files(root, mine)
        contents = files.pop(METADATA_FILE)
        try:
            objects.put({self.path / name: [files[name]] for name in files})
            objects.put({self._root: [contents]})
        except BaseException:
            self.release()
            raise
        return mine

    def _begin(self) -> None:
        """Says in the root that a store is being made, and clears away half of one."""
        try:
            content = read_json(self._root)
        except FileNotFoundError:
            content = {}
        writer = pending_writer(content)
        if (content and writer is None) or self._alive(writer):
            raise self.already_there()
        self._keep_others_out(writer)
        try:
            objects.put({self._root: [pending(this_process())]})
            left = [name for name in self.path.names() if name != METADATA_FILE]
            objects.delete([self.path / name for name in left])
        except BaseException as error:
            self.release()
            if isinstance(error, TakenError):
                raise self.already_there() from error
            raise

    def already_there(self) -> StoreError:
        """As of `Place`."""
        with suppress(FileNotFoundError):
            writer = pending_writer(read_json(self._root))
            if writer is not None:
                return taken(self.path, writer)
        return super().already_there()

    def claim(self) -> None:
        """As of `Place`.

        A writer that was killed can't be told from one at work on another host. It is
        taken for killed, unless it is on this one: if it is not, its next commit is
        refused, and it says so.
        """
        writer = read_root(self.path).writer
        if self._alive(writer):
            raise taken(self.path, writer)
        self._keep_others_out(writer)

    def _alive(self, writer: Mapping[str, Any] | None) -> bool:
        return writer is not None and alive(writer, str(self.path) in _claimed)

    def _keep_others_out(self, writer: Mapping[str, Any] | None) -> None:
        """Keeps out others in this process."""
        if _claimed.setdefault(str(self.path), self) is not self:
            raise taken(self.path, writer or this_process())

    def release(self) -> None:
        """As of `Place`."""
        if _claimed.get(str(self.path)) is self:
            del _claimed[str(self.path)]

    def replace(self, contents: Mapping[Location, Iterable[Buffer]]) -> None:
        """As of `Place`."""
        objects.put(_objects(contents))

    def put(self, contents: Mapping[Location, Iterable[Buffer]]) -> None:
        """As of `Place`."""
        objects.put(_objects(contents), any_=True)

    def add(self, file: Location, content: bytes) -> bool:
        """As of `Place`."""
        assert isinstance(file, ObjectPath)
        file.session.seen.pop(file.key, None)
        try:
            objects.put({file: [content]})
        except TakenError:
            return False
        return True

    def names(self, folder: Location) -> list[str]:
        """As of `Place`."""
        assert isinstance(folder, ObjectPath)
        return folder.names()

    def prepare(self, folder: Location) -> None:
        """As of `Place`."""
        self.put({folder / METADATA_FILE: [opaque(folder.name)]})

    def delete(self, file: Location) -> None:
        """As of `Place`."""
        assert isinstance(file, ObjectPath)
        objects.delete([file])

    def discard(self, folder: Location) -> None:
        """As of `Place`."""
        assert isinstance(folder, ObjectPath)
        objects.delete(folder / name for name in folder.names())

    def mark(self, layouts: Sequence[ArrayLayout]) -> list[ArrayLayout]:
        """As of `Place`: all markers become others than those it has seen."""
        mine = _marked(layouts)
        markers = {self.path / m.spec.path / METADATA_FILE: m for m in mine}
        self.replace({file: [to_json(m.metadata())] for file, m in markers.items()})
        return mine

    def notice(self, files: Iterable[Location]) -> None:
        """As of `Place`."""
        for file in files:
            assert isinstance(file, ObjectPath)
            file.read()

    def cut(
        self, layouts: Sequence[ArrayLayout], even: Sequence[ArrayLayout]
    ) -> list[ArrayLayout]:
        """As of `Place`."""
        mine = self.mark(even)

        def left(layout: ArrayLayout) -> list[ObjectPath]:
            kept = set(map(layout.shard, range(layout.blocks)))
            folder = self.path / layout.spec.path
            names = set(folder.names()) - kept - {METADATA_FILE}
            return [folder / name for name in names]

        # Of many blocks there are many answers to each, a thousand names long.
        with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
            for paths in pool.map(left, mine):
                objects.delete(paths)
        return mine

    def remove(self) -> None:
        """As of `Place`."""
        self.claim()
        try:
            self._remove(read_root(self.path))
        except TakenError as error:
            raise write_error(error, self.path, 0) from error
        finally:
            self.release()

    def _remove(self, root: Root) -> None:
        names = self.path.names()
        inner = ["", *(f"{group}/" for group in groups(root.arrays))]
        ours = {f"{folder}{METADATA_FILE}" for folder in inner}
        for name in names:
            folder, _, _ = name.rpartition("/")
            if name not in ours and folder not in (*root.arrays, RECORDS):
                raise StoreError(
                    f"{self.path / name} is inside the store {self.path}, but is no "
                    "part of it. Move it away; nothing was deleted."
                )
        # No other process is to meet a store that is half deleted.
        objects.put({self._root: [pending(this_process())]})
        objects.delete(self.path / name for name in names if name != METADATA_FILE)
        objects.delete([self._root], any_=False)

    def size(self, layout: ArrayLayout) -> Size:
        """As of `Place`."""
        files = len((self.path / layout.spec.path).names())
        if layout.compression is not None:
            # Nothing tells how large an object is, but reading it.
            return Size(files, None)
        shards = sum(
            layout.shard_bytes(len(layout.rows_of(block)))[0]
            for block in range(layout.blocks)
        )
        return Size(files, shards + len(to_json(layout.metadata())))


def _objects(
    contents: Mapping[Location, Iterable[Buffer]],
) -> dict[ObjectPath, Iterable[Buffer]]:
    return {p: content for p, content in contents.items() if isinstance(p, ObjectPath)}


def _marked(layouts: Iterable[ArrayLayout]) -> list[ArrayLayout]:
    """Returns arrays with the mark of another writer.

    With it, they are other objects, even if they say the same.
    """
    mark = uuid.uuid4().hex[:8]
    return [replace(layout, writer=mark) for layout in layouts]
