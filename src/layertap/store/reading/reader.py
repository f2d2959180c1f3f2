"""Reads a store: its committed rows, and no more of them than is asked for."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from layertap.core import address
from layertap.errors import AddressError
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.metadata import check_groups, read_layouts
from layertap.store.format.root import read_root
from layertap.store.location import locate
from layertap.store.location.base import array_size
from layertap.store.reading.array import LazyArray
from layertap.store.reading.local_shards import shard_cache

_THREADS = 2
# With the block in use, the blocks that are read ahead.
_BLOCKS_AHEAD = 2


@dataclass(frozen=True)
class Member:
    """The properties of an array that are known without reading its values."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    attributes: dict[str, Any]
    compression: str | None
    chunk_rows: int
    files: int
    # None for a compressed array in a bucket: its objects would have to be read.
    bytes_on_disk: int | None


class Reader:
    """A store as it is committed now. It never writes.

    A writer may commit more rows later: a new reader sees them.

    Args:
        path: The path or the URL of the store.

    Raises:
        NotAStoreError: If there is none.
        StoreFormatError: If a newer layertap wrote it.
        StoreCorruptError: If it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._storage = locate(path).storage
        self._root = read_root(self._storage)
        self._layouts = read_layouts(self._storage, self._root)
        self.attributes: dict[str, Any] = dict(self._root.attributes)
        self.complete: bool = self._root.complete
        self.store: str = self._root.store
        # While rows are being committed, some arrays have more of them than others.
        self.rows: int = min(layout.rows for layout in self._layouts)
        self.block_rows: int = self._layouts[0].block_rows
        cache = shard_cache(len(self._layouts))
        self._arrays = {
            layout.spec.path: LazyArray(self._storage, layout, self.rows, cache)
            for layout in self._layouts
        }

    @property
    def path(self) -> str:
        """The path or the URL of the store."""
        return str(self._storage)

    @property
    def paths(self) -> list[str]:
        """The paths of all arrays, in the order of the writer."""
        return list(self._arrays)

    def array(self, path: str) -> LazyArray:
        """Returns an array, or raises AddressError with the nearest names."""
        if path not in self._arrays:
            raise AddressError(
                f"{self.path} has no array {path!r}. "
                + address.suggest(path, self.paths, what="array")
            )
        return self._arrays[path]

    def ahead(self, blocks: Sequence[int]) -> Iterator[int]:
        """Yields the numbers of blocks, while the rows of the next ones are read.

        Errors are only raised when the rows are read.
        """
        reading: deque[list[Future[None]]] = deque()
        next_blocks = iter(blocks)
        pool = ThreadPoolExecutor(_THREADS, "layertap-ahead")
        try:
            for block in blocks:
                while len(reading) < _BLOCKS_AHEAD:
                    next_block = next(next_blocks, None)
                    if next_block is None:
                        break
                    start = next_block * self.block_rows
                    rows = range(start, min(start + self.block_rows, self.rows))
                    arrays = self._arrays.values()
                    reading.append([pool.submit(a.ahead, rows) for a in arrays])
                wait(reading.popleft())
                yield block
        finally:
            pool.shutdown(cancel_futures=True)

    def check_groups(self) -> None:
        """Reads the metadata of groups, or raises StoreError if they are damaged."""
        check_groups(self._storage, self._root)

    def members(self) -> list[Member]:
        """Returns the properties of all arrays without reading their values."""
        return [self._member(layout) for layout in self._layouts]

    def _member(self, layout: ArrayLayout) -> Member:
        files, bytes_on_disk = array_size(self._storage, layout)
        return Member(
            path=layout.spec.path,
            shape=(self.rows, *layout.spec.shape),
            dtype=layout.spec.dtype,
            attributes=layout.attributes,
            compression=layout.compression,
            chunk_rows=layout.chunk_rows,
            files=files,
            bytes_on_disk=bytes_on_disk,
        )

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return (
            f"<layertap.Reader {self.path}: {len(self._arrays)} arrays, "
            f"{self.rows:,} rows, {state}>"
        )
