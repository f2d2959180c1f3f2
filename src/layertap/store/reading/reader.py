"""Reads a store: its committed rows, and no more of them than is asked for."""

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from layertap.core import address
from layertap.errors import AddressError
from layertap.store.format.metadata import check_groups, read_store
from layertap.store.location import locate
from layertap.store.location.base import ArraySize, array_size
from layertap.store.reading.array import LazyArray
from layertap.store.reading.local_shards import shard_cache
from layertap.store.storage.ahead import map_ahead

_THREADS = 2
# To read smaller blocks ahead takes longer than to read them.
_SMALL_BLOCK = 2**24


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
        self.path = str(self._storage)
        self._root, self._layouts = read_store(self._storage)
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
        # In the order of the writer.
        self.paths: list[str] = list(self._arrays)

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
        arrays = self._arrays.values()
        row_bytes = sum(array.row_bytes for array in arrays)
        if row_bytes * min(self.rows, self.block_rows) <= _SMALL_BLOCK:
            yield from blocks
            return

        def read(part: tuple[int, LazyArray]) -> None:
            block, array = part
            start = block * self.block_rows
            array.ahead(range(start, min(start + self.block_rows, self.rows)))

        parts = itertools.product(blocks, arrays)
        # Of the block in use, all arrays were read; those of the next one are.
        reading = map_ahead(read, parts, threads=_THREADS, most=len(arrays))
        with closing(reading):
            for block in blocks:
                deque(itertools.islice(reading, len(arrays)), maxlen=0)
                yield block

    def check_groups(self) -> None:
        """Reads the metadata of groups, or raises StoreError if they are damaged."""
        check_groups(self._storage, self._root)

    def sizes(self) -> dict[str, ArraySize]:
        """Returns how large all arrays are on disk, without reading their values."""
        return {lay.spec.path: array_size(self._storage, lay) for lay in self._layouts}

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return (
            f"<layertap.Reader {self.path}: {len(self._arrays)} arrays, "
            f"{self.rows:,} rows, {state}>"
        )
