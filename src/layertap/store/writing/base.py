"""How writers lock a store, and how they release it."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from layertap.errors import StoreError
from layertap.store.format.layout import ArraySpec, Layouts
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import Root, read_root
from layertap.store.format.sizing import lay_out, rows_per_chunk
from layertap.store.location import locate
from layertap.store.location.base import Location
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import TakenError, write_error
from layertap.store.storage.lock import this_process

# Returns the attributes that a complete store has besides those of `create`.
Attributes = Callable[[], Mapping[str, Any]]

LockedStore = tuple[Location, Root, Layouts]


@dataclass(frozen=True)
class Reopening:
    """A complete store that gets more rows.

    Args:
        store: Its id.
        rows: How many rows it had when they were compared with the data.
        attributes: Those that it has until it is complete again.
    """

    store: str
    rows: int
    attributes: Mapping[str, Any]


class BaseWriter:
    """A locked store. It is released by `close`, or by a `with` statement."""

    def __init__(self, location: Location, root: Root) -> None:
        self.path = str(location.storage)
        self._location = location
        self._storage = location.storage
        self._root = root
        self.store = root.store
        self._open = True
        self._process = os.getpid()

    @staticmethod
    def check(
        arrays: Sequence[ArraySpec], attributes: Mapping[str, Any], **sizes: Any
    ) -> None:
        """Raises the OptionError that `create` would raise."""
        root, _ = draft(arrays, attributes, **sizes)
        _ = root.contents

    def close(self) -> None:
        """Releases the store, and raises an error that no call has raised."""
        # A forked process has the writer, but neither its lock nor its threads.
        if self._open and self._process == os.getpid():
            self._open = False
            self._end()

    def _end(self) -> None:
        """Releases the store."""
        if not self._root.complete:
            # The record of the writer is for messages: it may stay on a full disk.
            with suppress(OSError):
                self._location.write_root(replace(self._root, writer=None))
        self._location.release()

    def _completed(self, attributes: Attributes, rows: int) -> Root:
        """Returns the root of the complete store; raises OptionError if not JSON."""
        merged = {**self._root.attributes, **attributes()}
        root = replace(
            self._root, attributes=merged, complete=True, rows=rows, writer=None
        )
        _ = root.contents
        return root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except StoreError:
            # The error that ended the `with` statement is the one to raise.
            if error is None:
                raise


def draft(
    arrays: Sequence[ArraySpec], attributes: Mapping[str, Any], **sizes: Any
) -> tuple[Root, Layouts]:
    """Returns the metadata of a new store; for `sizes`, see `lay_out`."""
    store = uuid.uuid4().hex
    layouts = lay_out(arrays, store, **sizes)
    paths = tuple(layout.spec.path for layout in layouts)
    writer = this_process()
    root = Root(store=store, writer=writer, arrays=paths, attributes=attributes)
    return root, layouts


@contextmanager
def create_store(
    path: str | os.PathLike[str],
    arrays: Sequence[ArraySpec],
    attributes: Mapping[str, Any],
    **sizes: Any,
) -> Iterator[LockedStore]:
    """Makes and locks a store without rows; an error in the context releases it."""
    location = locate(path)
    root, layouts = draft(arrays, attributes, **sizes)
    if location.exists():
        raise location.already_exists()
    with _releasing(location):
        yield location, root, location.create(root, layouts)


@contextmanager
def lock_store(
    path: str | os.PathLike[str], reopening: Reopening | None = None
) -> Iterator[LockedStore]:
    """Locks a store that is not complete; an error in the context releases it.

    A complete one is returned as if it were not, if it is to be reopened. Until its
    root is written, nothing is changed.
    """
    location = locate(path)
    with _releasing(location):
        location.lock()
        root = read_root(location.storage)
        layouts = read_layouts(location.storage, root)
        if reopening is not None:
            root = _reopened(location, root, layouts, reopening)
        if root.complete:
            raise StoreError(
                f"The store {location.storage} is complete: no rows can be added. "
                "Write to another path, or remove it first."
            )
        yield location, root, _agreeing(location, layouts)


def _reopened(
    location: Location, root: Root, layouts: Layouts, reopening: Reopening
) -> Root:
    """Returns the root of a store that is not complete any more; writes nothing."""
    rows = min(layout.rows for layout in layouts)
    if (root.store, rows) != (reopening.store, reopening.rows):
        raise StoreError(
            f"{location.storage} was changed by another process since its rows were "
            "compared with the data. Nothing was written to it. Repeat the same call."
        )
    attributes = reopening.attributes
    return replace(root, complete=False, rows=None, attributes=attributes)


def _agreeing(location: Location, layouts: Layouts) -> Layouts:
    """Undoes a first commit that was interrupted, and had changed the sizes."""
    most = max(layout.block_rows for layout in layouts)
    before = [
        layout
        if layout.block_rows == most
        else replace(
            layout.committed(0, 0, ""),
            block_rows=most,
            chunk_rows=rows_per_chunk(layout.spec, most),
        )
        for layout in layouts
    ]
    return layouts if before == layouts else location.take_over(layouts, before)


@contextmanager
def _releasing(location: Location) -> Iterator[None]:
    """Releases a location after an error, and explains the error."""
    storage = location.storage
    try:
        yield
    except BaseException as error:
        location.release()
        if isinstance(error, MemoryError):
            raise StoreError(
                f"{storage} can't be written: a block of its rows does not fit into "
                "memory. Pass less `memory`, or, for an existing store, write to "
                "another path."
            ) from error
        explained = isinstance(error, StoreError) and not isinstance(error, TakenError)
        if isinstance(error, OSError) and not explained:
            raise write_error(error, storage, _committed_rows(storage)) from error
        raise


def _committed_rows(storage: Storage) -> int:
    """Returns how many rows of a store are committed, or 0 if that can't be read."""
    with suppress(StoreError):
        return min(layout.rows for layout in read_layouts(storage, read_root(storage)))
    return 0
