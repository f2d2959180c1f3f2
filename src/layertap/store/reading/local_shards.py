"""The shards of an array, to be read: looked at before, checked, and mapped."""

import errno
import operator
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.errors import StoreError
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.metadata import parse_layout
from layertap.store.format.shard import Shard, ShardError
from layertap.store.storage import errors
from layertap.store.storage.errors import unreadable
from layertap.store.storage.files import LocalStorage

_TOO_MUCH = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Open shards, by array and block.
ShardCache = LRU[tuple[str, int], Shard]
# Each has a file open; a process may have 1,024.
_MOST_SHARDS = 64
# The bytes of all compressed shards in memory.
_MOST_SHARD_BYTES = 2**29

# What to read of an axis.
Part = range | NDArray[np.intp]

# Rows up to this size are taken as elements of an array, larger ones one by one.
_SMALL_ROW = 2**18
# Read at a time, where not all of each row is wanted.
_PIECE_BYTES = 2**24


def shard_cache(arrays: int) -> ShardCache:
    """Returns a cache for the open shards of so many arrays, two of each at least."""
    return LRU(
        _MOST_SHARDS,
        least=2 * arrays,
        most_bytes=_MOST_SHARD_BYTES,
        size=operator.attrgetter("in_memory"),
    )


class Shards:
    """The shards of an array, to read its committed rows from.

    Before anything is read of a shard, its file is looked at: one that is missing, or
    too small or too large for what it should hold, is told, and takes no memory.

    Args:
        storage: The folder of the store.
        layout: The array.
        held: Where its shards are held open.
    """

    def __init__(
        self, storage: LocalStorage, layout: ArrayLayout, held: ShardCache
    ) -> None:
        self._storage = storage
        self._folder = storage.folder / layout.spec.path
        # As text: it is looked at before anything is read.
        self._file = storage.path_of(layout.metadata_file)
        self._marker: tuple[int, ...] = ()
        self._layout = layout
        self._held = held
        self._right_sizes: set[int] = set()

    def read(self, rows: Part) -> NDArray[Any]:
        """Reads whole rows.

        Args:
            rows: Which rows: a range that goes up, or positions.

        Raises:
            StoreCorruptError: If what is on disk is not what was written; the file and
                its rows are named.
            StoreError: If it can't be read.
        """
        if not len(rows):
            return np.empty(
                (0, *self._layout.spec.shape), self._layout.spec.numpy_dtype
            )
        self._check_store()
        # No memory is taken for what no file can hold.
        for block in _blocks(rows, self._layout.block_rows):
            if block not in self._right_sizes:
                self._check_size(block)
        with self._fitting((len(rows), *self._layout.spec.shape)):
            return self._whole(rows)

    def read_parts(self, rows: Part, inner: Sequence[range]) -> NDArray[Any]:
        """Reads a part of the array.

        Args:
            rows: As of `read`.
            inner: What to read of each row, for each axis a range that goes up.

        Raises:
            StoreCorruptError: As of `read`.
            StoreError: As of `read`.
        """
        spec = self._layout.spec
        if all(len(part) == n for part, n in zip(inner, spec.shape, strict=True)):
            return self.read(rows)
        shape = (len(rows), *map(len, inner))
        if 0 in shape:
            return np.empty(shape, spec.numpy_dtype)
        with self._fitting(shape):
            values = np.empty(shape, spec.numpy_dtype)
        wanted = (slice(None), *(slice(p[0], p[-1] + 1, p.step) for p in inner))
        piece = max(_PIECE_BYTES // spec.row_bytes, 1)
        for start in range(0, len(rows), piece):
            part = self.read(rows[start : start + piece])
            values[start : start + piece] = part[wanted]
        return values

    @contextmanager
    def _fitting(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Tells of an array of a shape that it does not fit into memory."""
        try:
            yield
        except (MemoryError, ValueError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{self._folder}: an array of shape {shape} does not fit into memory. "
                "Read fewer rows at a time."
            ) from error

    def ahead(self, rows: range) -> None:
        """Reads and checks rows that will be wanted soon.

        What is wrong with them is told when they are read.

        Args:
            rows: Rows that follow each other.
        """
        with suppress(StoreError, MemoryError):
            for block, _, last in _parts(rows, self._layout.block_rows):
                self._check_size(block)
                with self._telling(block):
                    self._shard(block).check_first(last + 1)

    def _whole(self, rows: Part) -> NDArray[Any]:
        """Reads whole rows."""
        spec = self._layout.spec
        follow = isinstance(rows, range) and rows.step == 1
        if not follow and spec.row_bytes <= _SMALL_ROW:
            taken = self._taken(np.asarray(rows))
            return taken.view(spec.numpy_dtype).reshape(-1, *spec.shape)
        values = np.empty((len(rows), *spec.shape), spec.numpy_dtype)
        if isinstance(rows, range) and follow:
            self._copy(rows, values)
        else:
            for place, row in zip(values[:, None], rows, strict=True):
                self._copy(range(row, row + 1), place)
        return values

    def _copy(self, rows: range, values: NDArray[Any]) -> None:
        """Reads whole rows that follow each other."""
        done = 0
        for block, first, last in _parts(rows, self._layout.block_rows):
            with self._telling(block):
                shard = self._shard(block)
                shard.check_range(first, last)
                shard.copy(first, values[done : done + last + 1 - first])
            done += last + 1 - first

    def _taken(self, rows: NDArray[np.intp]) -> NDArray[np.void]:
        """Reads whole rows in any order, each as one element."""
        blocks, within = np.divmod(rows, self._layout.block_rows)
        if blocks.min() == blocks.max():
            return self._taken_of(int(blocks[0]), within)
        taken = np.empty(len(rows), f"V{self._layout.spec.row_bytes}")
        by_block = np.argsort(blocks, kind="stable")
        cuts = np.flatnonzero(np.diff(blocks[by_block])) + 1
        for places in np.split(by_block, cuts):
            taken[places] = self._taken_of(int(blocks[places[0]]), within[places])
        return taken

    def _taken_of(self, block: int, rows: NDArray[np.intp]) -> NDArray[np.void]:
        with self._telling(block):
            shard = self._shard(block)
            shard.check_rows(rows)
            return shard.take(rows)

    def _shard(self, block: int) -> Shard:
        key = (self._layout.spec.path, block)
        shard = self._held.get(key)
        if shard is None:
            file = self._folder / self._layout.shard(block)
            try:
                shard = Shard(file, self._layout)
            except (OSError, MemoryError) as error:
                if getattr(error, "errno", errno.ENOMEM) not in _TOO_MUCH:
                    raise
                # Of files or of memory, some of it here.
                self._held.clear()
                shard = Shard(file, self._layout)
            self._held.put(key, shard)
        return shard

    @contextmanager
    def _telling(self, block: int) -> Iterator[None]:
        """Tells of a block that can't be read, or is not as it was written."""
        try:
            yield
        except ShardError as error:
            raise self.damaged(block, f"is damaged ({error})") from error
        except FileNotFoundError as error:
            raise self.damaged(block, "is missing") from error
        except OSError as error:
            file = self._folder / self._layout.shard(block)
            raise unreadable(file, error) from error

    def _check_store(self) -> None:
        """Checks that the array is still the one that was opened.

        Raises:
            StoreError: If another store has taken its place.
        """
        file = self._file
        try:
            found = os.lstat(file)
            marker = found.st_ino, found.st_mtime_ns, found.st_size
            if marker == self._marker:
                return
            parse_layout(
                self._layout.spec.path,
                file,
                self._storage.read_json(self._layout.metadata_file),
                self._layout.store,
            )
        except OSError as error:
            raise StoreError(
                f"{self._folder} is not what it was when it was opened, and another "
                f"store may have taken its place. Open it again. ({error})"
            ) from error
        self._marker = marker

    def _check_size(self, block: int) -> None:
        file = self._folder / self._layout.shard(block)
        rows = self._layout.rows_of(block)
        sizes = self._layout.shard_bytes(len(rows))
        try:
            found = file.lstat()
        except FileNotFoundError as error:
            raise self.damaged(block, "is missing") from error
        except OSError as error:
            raise unreadable(file, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise self.damaged(block, "is no file of its own: a link, or a folder")
        if found.st_size not in sizes:
            raise self.damaged(
                block,
                f"is damaged: it has {found.st_size:,} bytes instead of "
                f"{sizes[0]:,} to {sizes[-1]:,}",
            )
        self._right_sizes.add(block)

    def damaged(self, block: int, what: str) -> StoreError:
        """Returns what to tell of a block that is not as it was written.

        Args:
            block: The block.
            what: What is wrong, as of `errors.damaged`.
        """
        rows = self._layout.rows_of(block)
        told = f"with rows {rows[0]} to {rows[-1]} of {self._layout.spec.path} {what}"
        return errors.damaged(self._folder / self._layout.shard(block), told)


def _blocks(rows: Part, block_rows: int) -> Sequence[int]:
    """Returns the blocks that rows are in."""
    if isinstance(rows, range) and rows.step < block_rows:
        return range(rows[0] // block_rows, rows[-1] // block_rows + 1)
    if isinstance(rows, range):
        return [row // block_rows for row in rows]
    found: list[int] = np.unique(rows // block_rows).tolist()
    return found


def _parts(rows: range, block_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yields the blocks that rows are in, and of each the first and the last of them.

    Args:
        rows: Rows that follow each other.
        block_rows: The rows of a block; the rows that are yielded are numbered in it.
    """
    for block in range(rows[0] // block_rows, rows[-1] // block_rows + 1):
        start = block * block_rows
        yield (
            block,
            max(rows[0] - start, 0),
            min(rows[-1] - start, block_rows - 1),
        )
