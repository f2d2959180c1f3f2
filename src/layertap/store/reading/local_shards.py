"""Shards that are files: their sizes are checked, then they are mapped into memory."""

import errno
import operator
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.errors import StoreError
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.shard import Shard, ShardError
from layertap.store.reading.indexing import Rows
from layertap.store.reading.shards import Shards
from layertap.store.storage.errors import unreadable
from layertap.store.storage.files import LocalStorage, version_of

# Open shards, by array and block.
ShardCache = LRU[tuple[str, int], Shard]
# Each has a file open; a process may have 1,024.
_MOST_SHARDS = 64
# The bytes of all compressed shards in memory.
_MOST_SHARD_BYTES = 2**29

# Larger chunks are not read ahead.
_SMALL_CHUNK = 2**26

_TOO_MANY = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Smaller rows are taken as elements of an array, larger ones one by one.
_SMALL_ROW = 2**18
# The bytes that are read at a time, where only parts of rows are needed.
_PIECE_BYTES = 2**24


def shard_cache(arrays: int) -> ShardCache:
    """Returns a cache for the open shards of so many arrays, two of each at least."""
    return LRU(
        _MOST_SHARDS,
        least=2 * arrays,
        most_bytes=_MOST_SHARD_BYTES,
        size=operator.attrgetter("in_memory"),
    )


class LocalShards(Shards):
    """Shards that are files.

    The size of a file is checked before anything else: for a shard that is missing or
    has an impossible size, no memory is allocated.
    """

    _storage: LocalStorage

    def __init__(
        self, storage: LocalStorage, layout: ArrayLayout, cache: ShardCache
    ) -> None:
        super().__init__(storage, layout)
        # As text, because it is looked up before anything is read.
        self._metadata_file = storage.path_of(layout.metadata_file)
        self._metadata_version = storage.versions.get(layout.metadata_file)
        self._cache = cache
        self._right_sizes: set[int] = set()

    def _read(self, rows: Rows, inner: Sequence[range]) -> NDArray[Any]:
        spec = self._layout.spec
        shape = (len(rows), *map(len, inner))
        if shape[1:] == spec.shape:
            return self._read_rows(rows)
        with self._memory_for(shape):
            values = np.empty(shape, spec.numpy_dtype)
        parts = (slice(None), *(slice(p[0], p[-1] + 1, p.step) for p in inner))
        piece = max(_PIECE_BYTES // spec.row_bytes, 1)
        for start in range(0, len(rows), piece):
            part = self._read_rows(rows[start : start + piece])
            values[start : start + piece] = part[parts]
        return values

    def _read_rows(self, rows: Rows) -> NDArray[Any]:
        spec = self._layout.spec
        shape = (len(rows), *spec.shape)
        self._check_store()
        for block in _blocks(rows, self._layout.block_rows):
            if block not in self._right_sizes:
                self._check_size(block)
        with self._memory_for(shape):
            if isinstance(rows, range) and rows.step == 1:
                values = np.empty(shape, spec.numpy_dtype)
                self._copy(rows, values)
            elif spec.row_bytes <= _SMALL_ROW:
                taken = self._take(np.asarray(rows))
                values = taken.view(spec.numpy_dtype).reshape(shape)
            else:
                values = np.empty(shape, spec.numpy_dtype)
                for target, row in zip(values[:, None], rows, strict=True):
                    self._copy(range(row, row + 1), target)
            return values

    @contextmanager
    def _memory_for(self, shape: tuple[int, ...]) -> Iterator[None]:
        try:
            yield
        except (MemoryError, ValueError) as error:
            raise StoreError(
                f"{self._folder}: an array of shape {shape} does not fit into memory. "
                "Read fewer rows at a time."
            ) from error

    def ahead(self, rows: range) -> None:
        """See `Shards`."""
        if self._layout.chunk_rows * self._layout.spec.row_bytes > _SMALL_CHUNK:
            return
        for block, first, last in _spans(rows, self._layout.block_rows):
            self._check_size(block)
            with self._shard(block) as shard:
                shard.check_range(first, last)

    def _copy(self, rows: range, values: NDArray[Any]) -> None:
        """Reads consecutive rows into an array."""
        done = 0
        for block, first, last in _spans(rows, self._layout.block_rows):
            with self._shard(block) as shard:
                shard.check_range(first, last)
                shard.copy(first, values[done : done + last + 1 - first])
            done += last + 1 - first

    def _take(self, rows: NDArray[np.intp]) -> NDArray[np.void]:
        """Reads rows in any order, each as one element."""
        blocks, within = np.divmod(rows, self._layout.block_rows)
        if blocks.min() == blocks.max():
            return self._take_from(int(blocks[0]), within)
        taken = np.empty(len(rows), f"V{self._layout.spec.row_bytes}")
        by_block = np.argsort(blocks, kind="stable")
        ends = np.flatnonzero(np.diff(blocks[by_block])) + 1
        for places in np.split(by_block, ends):
            taken[places] = self._take_from(int(blocks[places[0]]), within[places])
        return taken

    def _take_from(self, block: int, rows: NDArray[np.intp]) -> NDArray[np.void]:
        with self._shard(block) as shard:
            shard.check_rows(rows)
            return shard.take(rows)

    @contextmanager
    def _shard(self, block: int) -> Iterator[Shard]:
        """Opens a shard, and explains errors of it."""
        with self._explaining(block):
            yield self._open(block)

    @contextmanager
    def _explaining(self, block: int) -> Iterator[None]:
        try:
            yield
        except ShardError as error:
            raise self.damaged(block, f"is damaged ({error})") from error
        except FileNotFoundError as error:
            raise self.damaged(block, "is missing") from error
        except OSError as error:
            raise unreadable(self._file(block), error) from error

    def _file(self, block: int) -> Path:
        return self._storage.folder / self._layout.shard_file(block)

    def _open(self, block: int) -> Shard:
        key = (self._layout.spec.path, block)
        shard = self._cache.get(key)
        if shard is None:
            try:
                shard = Shard(self._file(block), self._layout)
            except (OSError, MemoryError) as error:
                if getattr(error, "errno", errno.ENOMEM) not in _TOO_MANY:
                    raise
                # Some of the open files, or of the memory, belong to this cache.
                self._cache.clear()
                shard = Shard(self._file(block), self._layout)
            self._cache.put(key, shard)
        return shard

    def _check_store(self) -> None:
        """Raises StoreError if another store has taken the place of this one."""
        try:
            status = os.lstat(self._metadata_file)
            version = version_of(status)
            if version != self._metadata_version:
                self._check_metadata()
        except OSError as error:
            raise self._replaced(error) from error
        self._metadata_version = version

    def _check_size(self, block: int) -> None:
        sizes = self._layout.shard_sizes(len(self._layout.row_range(block)))
        with self._explaining(block):
            status = self._file(block).lstat()
        if not stat.S_ISREG(status.st_mode):
            raise self.damaged(block, "is not a file of its own: a link, or a folder")
        if status.st_size not in sizes:
            raise self.damaged(
                block,
                f"is damaged: it has {status.st_size:,} bytes instead of "
                f"{sizes[0]:,} to {sizes[-1]:,}",
            )
        self._right_sizes.add(block)


def _blocks(rows: Rows, block_rows: int) -> Sequence[int]:
    """Returns the blocks of rows."""
    if isinstance(rows, range) and rows.step < block_rows:
        return range(rows[0] // block_rows, rows[-1] // block_rows + 1)
    if isinstance(rows, range):
        return [row // block_rows for row in rows]
    return np.unique(rows // block_rows).tolist()


def _spans(rows: range, block_rows: int) -> Iterator[tuple[int, int, int]]:
    """Yields the blocks of consecutive rows, and in each its first and last row."""
    for block in range(rows[0] // block_rows, rows[-1] // block_rows + 1):
        start = block * block_rows
        first, last = max(rows[0] - start, 0), rows[-1] - start
        yield block, first, min(last, block_rows - 1)
