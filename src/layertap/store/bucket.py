"""A store in a bucket of an object store: no renames, no locks, but conditions.

An object is put whole or not at all, and only if it is still as this writer saw it
last. So no two writers can mix what they write: whoever comes second changes all
markers, and the first one's next commit is refused.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from layertap.errors import StoreError
from layertap.store import objects
from layertap.store.files import read_json
from layertap.store.layout import (
    METADATA_FILE,
    RECORDS,
    ArrayLayout,
    to_json,
)
from layertap.store.locks import alive, taken, this_process
from layertap.store.objects import Buffer, Location, ObjectPath, TakenError
from layertap.store.parsing import groups
from layertap.store.place import Place, Size, new_files, opaque
from layertap.store.root import Root, pending, pending_writer, read_root

# An attribute of arrays: who may change them. Another writer puts another one there,
# so that they are other objects, even if they say the same.
WRITER = "writer"

_LISTS_AT_ONCE = 8

# The stores that this process writes, by their URLs.
_claimed: set[str] = set()


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

    def create(self, root: Root, layouts: Sequence[ArrayLayout]) -> None:
        """As of `Place`."""
        # Whoever puts the root first makes the store; the others are refused.
        self._begin()
        _claimed.add(str(self.path))
        files = new_files(root, [_of_writer(layout) for layout in layouts])
        contents = files.pop(METADATA_FILE)
        objects.put({self.path / name: [files[name]] for name in files})
        objects.put({self._root: [contents]})

    def _begin(self) -> None:
        """Says in the root that a store is being made, and clears away half of one."""
        try:
            content = read_json(self._root)
        except FileNotFoundError:
            content = {}
        writer = pending_writer(content)
        if (content and writer is None) or self._alive(writer):
            raise self.already_there()
        try:
            objects.put({self._root: [pending(this_process())]})
        except TakenError as error:
            raise self.already_there() from error
        left = [name for name in self.path.names() if name != METADATA_FILE]
        objects.delete([self.path / name for name in left])

    def claim(self) -> None:
        """As of `Place`.

        A writer that was killed can't be told from one at work on another host. It is
        taken for killed, unless it is on this one: if it is not, its next commit is
        refused, and it says so.
        """
        root = read_root(self.path)
        if self._alive(root.writer):
            raise taken(self.path, root.writer)
        _claimed.add(str(self.path))

    def _alive(self, writer: Mapping[str, Any] | None) -> bool:
        return writer is not None and alive(writer, str(self.path) in _claimed)

    def release(self) -> None:
        """As of `Place`."""
        _claimed.discard(str(self.path))

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
        mine = [_of_writer(layout) for layout in layouts]
        self.replace(
            {
                self.path / layout.spec.path / METADATA_FILE: [
                    to_json(layout.metadata())
                ]
                for layout in mine
            }
        )
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
        root = read_root(self.path)
        self.claim()
        names = self.path.names()
        arrays = [*root.arrays, RECORDS]
        inner = ["", *(f"{group}/" for group in groups(root.arrays))]
        ours = {f"{folder}{METADATA_FILE}" for folder in inner}
        for name in names:
            folder, _, _ = name.rpartition("/")
            if name not in ours and folder not in arrays:
                raise StoreError(
                    f"{self.path / name} is inside the store {self.path}, but is no "
                    "part of it. Move it away; nothing was deleted."
                )
        # No other process is to meet a store that is half deleted.
        objects.put({self._root: [pending(this_process())]})
        objects.delete(self.path / name for name in names if name != METADATA_FILE)
        objects.delete([self._root])

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


def _of_writer(layout: ArrayLayout) -> ArrayLayout:
    """Returns the layout with another mark of who writes the array."""
    attributes = {**layout.spec.attributes, WRITER: uuid.uuid4().hex[:8]}
    return replace(layout, spec=replace(layout.spec, attributes=attributes))
