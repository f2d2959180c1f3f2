"""Writes a store: block by block, in the background, committed in order."""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from numpy.typing import NDArray

from layertap.errors import StoreError
from layertap.store.format.layout import RECORDS, ArrayLayout, ArraySpec
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import Root, read_root
from layertap.store.format.sizing import BLOCKS_IN_MEMORY, DEFAULT_MEMORY, lay_out
from layertap.store.location import locate
from layertap.store.location.base import Location
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import TakenError, write_error
from layertap.store.storage.lock import this_process
from layertap.store.writing.block_records import adopted
from layertap.store.writing.blocks import Block, BlockWriter, Observer, fitting
from layertap.store.writing.resume import check_resumable, cut, safe_rows

_NOTHING: Mapping[str, Any] = {}


class Writer:
    """Appends rows to a store; there can be one at a time.

    Rows are copied into a block. A full block is written in the background, and its
    rows are committed, in order, when they are safely on disk: only then can they be
    seen. An error in the background is raised by the next call. After an error, or a
    crash, `Writer.resume` goes on after the committed rows.

    Made by `Writer.create` and `Writer.resume`, and best used in a `with` statement,
    which closes it. What was neither written as a full block nor committed is lost
    then.

    Example:
    ```python
    specs = [ArraySpec("fusion/in/0", (64,), "float32")]
    with Writer.create("values.zarr", specs, {"made by": "me"}) as writer:
        writer.append({"fusion/in/0": np.zeros([32, 64], "float32")})
        writer.finish()
    ```
    """

    def __init__(
        self,
        at: Location,
        root: Root,
        layouts: Sequence[ArrayLayout],
        memory: int,
        observer: Observer | None,
    ) -> None:
        self.path = str(at.storage)
        self._location = at
        self._root = root
        specs = [layout.spec for layout in layouts]
        self._forms = {spec.path: (spec.shape, spec.numpy_dtype) for spec in specs}
        self._open = True
        self._process = os.getpid()
        self._blocks = BlockWriter(at, layouts, observer)
        self._block_rows = layouts[0].block_rows
        block_bytes = self._block_rows * sum(each.spec.row_bytes for each in layouts)
        self._in_flight = max(min(memory // block_bytes, BLOCKS_IN_MEMORY) - 1, 1)
        first = self.committed - self.committed % self._block_rows
        self._block = self._blocks.room(first)
        # Whether the block that is being filled was handed over, to be committed.
        self._being_written = False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        *,
        compression: str | None = None,
        memory: int = DEFAULT_MEMORY,
        observer: Observer | None = None,
    ) -> Self:
        """Makes a store without rows, and a writer for it.

        A store is made whole or, after a crash, not at all.

        Args:
            path: Its folder. Nothing is there yet, or an empty folder.
            arrays: Its arrays.
            attributes: What else is to be known of it, as JSON.
            compression: None or `"zstd"`.
            memory: Bytes of rows to be held at a time; more if a single row is larger.
            observer: Is given all rows, each once and in order, as blocks of them:
                the number of the first one and, by array, the rows. It is called in
                the background, while a block is being written; for the last one,
                which may not be full, by `finish`. An error of its own is told like
                one of writing.

        Raises:
            NotAStoreError: If something else is there.
            StoreError: If a store is there, or none can be written.
            OptionError: If an array can't be stored, or the attributes aren't JSON.
        """
        at = locate(path)
        root, layouts = _draft(arrays, attributes, compression, memory)
        if at.exists():
            raise at.already_exists()
        try:
            made = at.create(root, layouts)
        except TakenError as error:
            raise write_error(error, at.storage, 0) from error
        except StoreError:
            raise
        except OSError as error:
            raise write_error(error, at.storage, 0) from error
        try:
            return cls(at, root, made, memory, observer)
        except BaseException as error:
            at.release()
            raise _no_memory(at.storage, error) from error

    @staticmethod
    def check(
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        *,
        compression: str | None = None,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        """Checks what `create` is going to be given; nothing is made.

        Args:
            arrays: As of `create`.
            attributes: As of `create`.
            compression: As of `create`.
            memory: As of `create`.

        Raises:
            OptionError: If `create` would raise it.
        """
        root, _ = _draft(arrays, attributes, compression, memory)
        root.contents()

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        memory: int = DEFAULT_MEMORY,
        observer: Observer | None = None,
    ) -> Self:
        """Makes a writer that goes on after the committed rows of a store.

        What an interrupted writer left behind them is deleted.

        Args:
            path: The folder of the store.
            memory: Bytes of rows to be held at a time. The size of blocks is fixed
                when a store is created; two of them are held at least.
            observer: As of `create`, of blocks that were not committed in full. Those
                that were are in the store.

        Raises:
            NotAStoreError: If there is no store.
            StoreFormatError: If a newer layertap wrote it.
            StoreCorruptError: If it is damaged.
            StoreError: If it is complete, or being written.
        """
        at = locate(path)
        try:
            at.claim()
        except StoreError:
            raise
        except OSError as error:
            raise write_error(error, at.storage, 0) from error
        try:
            return cls._resumed(at, memory, observer)
        except BaseException as error:
            at.release()
            told = isinstance(error, StoreError) and not isinstance(error, TakenError)
            if isinstance(error, OSError) and not told:
                raise write_error(error, at.storage, safe_rows(at.storage)) from error
            raise _no_memory(at.storage, error) from error

    @classmethod
    def _resumed(cls, at: Location, memory: int, observer: Observer | None) -> Self:
        storage = at.storage
        root = read_root(storage)
        check_resumable(storage, root)
        found = read_layouts(storage, root)
        layouts = adopted(storage, root, found)
        rows = min(layout.rows for layout in layouts)
        number = rows // layouts[0].block_rows
        block = Block.empty(number * layouts[0].block_rows, layouts)
        even = [cut(storage, layout, block, rows) for layout in layouts]
        root = replace(root, writer=this_process())
        at.write_root(root)
        layouts = at.cut(found, even)
        storage.delete_folder(RECORDS)
        block.filled = rows - block.first
        if block.filled:
            # The last shards are written again, with more rows.
            storage.remember(layout.shard_file(number) for layout in layouts)
        writer = cls(at, root, layouts, memory, observer)
        writer._block = block
        return writer

    @property
    def store(self) -> str:
        """Which store it is: a random text, another one for each."""
        return self._root.store

    @property
    def rows(self) -> int:
        """How many rows the store will have once all that was appended is committed."""
        return self._block.end

    @property
    def committed(self) -> int:
        """How many rows are on disk, and seen by readers."""
        return self._blocks.committed

    @property
    def bytes_written(self) -> int:
        """The bytes of all shards that were written, each time they were."""
        return self._blocks.bytes_written

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Adds rows to every array. The values are copied.

        Args:
            values: By array, the same number of rows.

        Raises:
            OptionError: If these are not all the arrays of the store, or not of their
                shapes and dtypes. No row is added then.
            StoreError: If rows appended earlier could not be written.
        """
        self._check_usable()
        if self._being_written:
            # A commit was interrupted: nothing is added to what is being read.
            self._blocks.wait()
            self._being_written = False
        rows, checked = fitting(values, self._forms)
        start = 0
        while start < rows:
            if self._block.filled == self._block_rows:
                self._hand_over()
            block = self._block
            count = min(rows - start, self._block_rows - block.filled)
            block.add({n: a[start : start + count] for n, a in checked.items()}, count)
            start += count
        if self._block.filled == self._block_rows:
            self._hand_over()

    def commit(self) -> None:
        """Makes everything that was appended durable and visible.

        Raises:
            StoreError: If it could not be written. Committed rows stay as they are.
        """
        self._check_usable()
        self._blocks.wait()
        if self.rows > self.committed:
            self._being_written = True
            self._blocks.submit(self._block)
            self._blocks.wait()
        self._being_written = False

    def finish(
        self, attributes: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = _NOTHING
    ) -> None:
        """Commits everything and marks the store as complete.

        Args:
            attributes: To be added to those of the store; or what gives them, called
                once the observer was given all rows.

        Raises:
            StoreError: If it could not be written. Committed rows stay as they are.
            OptionError: If the attributes aren't JSON.
        """
        if not callable(attributes):
            # Before it costs anything.
            self._completed(attributes).contents()
        self.commit()
        if 0 < self._block.filled < self._block_rows:
            self._blocks.observe(self._block)
        root = self._completed(attributes() if callable(attributes) else attributes)
        root.contents()
        before, self._root = self._root, root
        try:
            self._location.write_root(root)
        except OSError as error:
            self._root = before
            raise write_error(error, self.path, self.committed) from error

    def _completed(self, attributes: Mapping[str, Any]) -> Root:
        merged = {**self._root.attributes, **attributes}
        return replace(
            self._root, attributes=merged, complete=True, rows=self.rows, writer=None
        )

    def close(self) -> None:
        """Waits for blocks that are being written, and lets go of the store.

        Raises:
            StoreError: If a block could not be written, and no call said so yet.
        """
        if not self._open or self._process != os.getpid():
            # A forked process has the writer, but neither its lock nor its threads.
            return
        self._open = False
        try:
            self._blocks.close()
        except StoreError:
            self._let_go()
            raise
        except BaseException:
            # Ctrl-C: no other writer may come before the last file is written.
            self._blocks.abandon(self._location.release)
            raise
        self._let_go()

    def _let_go(self) -> None:
        if not self._root.complete:
            # Only for messages: a disk that is full does no harm.
            with suppress(OSError):
                self._location.write_root(replace(self._root, writer=None))
        self._location.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except StoreError:
            # What ended the `with` statement is the error to tell.
            if error is None:
                raise

    def _hand_over(self) -> None:
        """Has the full block written in the background, and begins the next one."""
        self._blocks.wait(self._in_flight - 1)
        self._blocks.submit(self._block)
        # Only now: if an interrupt comes before, the block is handed over again, which
        # writes the same rows again.
        self._block = self._blocks.room(self._block.end)

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"The writer of {self.path} is process {self._process}'s, and this is "
                f"process {os.getpid()}: write from the one that opened it."
            )
        if not self._open or self._root.complete:
            state = "finished" if self._open else "closed"
            raise StoreError(f"The writer of {self.path} is {state}: no more rows.")
        self._blocks.check()


def _draft(
    arrays: Sequence[ArraySpec],
    attributes: Mapping[str, Any],
    compression: str | None,
    memory: int,
) -> tuple[Root, list[ArrayLayout]]:
    """Returns what a new store is going to say of itself."""
    store = uuid.uuid4().hex
    layouts = lay_out(arrays, store, compression=compression, memory=memory)
    paths = tuple(layout.spec.path for layout in layouts)
    return Root(paths, attributes, store, writer=this_process()), layouts


def _no_memory(path: Storage, error: BaseException) -> BaseException:
    """Returns what to tell if there is no memory for a block; else the error."""
    if not isinstance(error, MemoryError):
        return error
    return StoreError(
        f"{path} can't be written: a block of its rows does not fit into memory. Pass "
        "less `memory`, or, of a store that is there, write to another path."
    )
