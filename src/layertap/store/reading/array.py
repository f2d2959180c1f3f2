"""An array of a store, read when it is indexed."""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from layertap.core import tables, text
from layertap.errors import StoreError
from layertap.store.format.digests import WRONG_ROWS, digest_rows
from layertap.store.format.layout import ArrayLayout
from layertap.store.reading.indexing import parse_index
from layertap.store.reading.local_shards import LocalShards, ShardCache, shard_cache
from layertap.store.reading.object_shards import ObjectShards
from layertap.store.reading.shards import Shards
from layertap.store.storage.base import Storage
from layertap.store.storage.files import LocalStorage
from layertap.store.storage.objects import ObjectStorage


class LazyArray:
    """An array on disk. It is read when it is indexed, chunk by chunk.

    It is indexed like a NumPy array, by integers, slices and `...`; the rows also by
    one array of integers or booleans. The result is a NumPy array.
    `shape`, `dtype`, `ndim`, `size` and `nbytes` are those of NumPy.

    Attributes:
        path: Its path in the store, such as `"fusion/in/0"`.
        attributes: Its attributes in the store.
        row_bytes: The bytes of one row in memory.
        compression: `"zstd"`, or None.
        chunk_rows: The number of rows that are read together, at least.
        block_rows: The number of rows in one file.
        chunk_bytes: The bytes of such rows in memory; None in a bucket.
    """

    def __init__(
        self, storage: Storage, layout: ArrayLayout, rows: int, cache: ShardCache
    ) -> None:
        self._layout = layout
        self._storage = storage
        self._shards = open_shards(storage, layout, cache)
        spec = layout.spec
        # With those that other programs added.
        self.attributes = {**layout.foreign_attributes, **spec.attributes}
        self.path: str = spec.path
        self.shape: tuple[int, ...] = (rows, *spec.shape)
        self.dtype = spec.numpy_dtype
        self.ndim: int = len(self.shape)
        self.size: int = math.prod(self.shape)
        self.nbytes: int = self.size * self.dtype.itemsize
        self.row_bytes: int = spec.row_bytes
        self.compression: str | None = layout.compression
        self.chunk_rows: int = layout.chunk_rows
        self.block_rows: int = layout.block_rows
        local = isinstance(storage, LocalStorage)
        self.chunk_bytes = self.chunk_rows * self.row_bytes if local else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Reads a part of the array.

        Args:
            index: Integers, slices and `...`; for the rows also one array of integers
                or booleans.

        Returns:
            A new array, of the shape that NumPy's indexing has, and of the same dtype.

        Raises:
            IndexError: If the index is not supported, or outside of the array.
            StoreCorruptError: If a file is damaged.
            StoreError: If a file can't be read.
        """
        if isinstance(index, slice) and index.step is None:
            return self._shards.read(range(*index.indices(len(self))))
        selection = parse_index(index, self.shape)
        return self._shards.read(selection.rows, selection.inner)[selection.arrange]

    def ahead(self, rows: range) -> None:
        """Reads and checks rows that will be needed soon.

        Errors are only raised when the rows are read.

        Args:
            rows: Consecutive rows.
        """
        with suppress(StoreError, MemoryError):
            self._shards.ahead(rows)

    def check(self) -> Iterator[tuple[range, StoreError | None]]:
        """Reads all committed rows, block by block, and checks them.

        The checksums of the chunks and the digest of each block are compared. The
        digest detects a file of another block, array, store or time.

        Yields:
            The rows of a block, and their error or None.
        """
        layout = self._layout
        # Not from the cache, and with rows that other arrays may not have yet.
        shards = open_shards(self._storage, layout, shard_cache(1))
        for block in range(layout.blocks):
            rows = layout.row_range(block)
            error: StoreError | None = None
            try:
                if digest_rows(shards.read(rows)) != layout.digest(block):
                    error = shards.damaged(block, WRONG_ROWS)
            except StoreError as read_error:
                error = read_error
            yield rows, error

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self!r} is on disk. Reading it makes a copy.")
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"<layertap.LazyArray {self.path} {self.shape} {self.dtype}>"

    def _repr_html_(self) -> str:
        from layertap.core.display import values

        facts = {
            "made by": self.attributes.get("made_by"),
            "in memory": tables.size(self.nbytes),
            "read together": text.counted(self.chunk_rows, "row"),
            "in one file": f"up to {text.counted(self.block_rows, 'row')}",
            "compression": self.compression or "none",
        }
        known = [(name, str(fact)) for name, fact in facts.items() if fact is not None]
        return values.array(f"layertap.LazyArray {self.path}", self, known)


def open_shards(storage: Storage, layout: ArrayLayout, cache: ShardCache) -> Shards:
    """Returns the shards of an array: files, or objects of a bucket."""
    if isinstance(storage, ObjectStorage):
        return ObjectShards(storage, layout)
    assert isinstance(storage, LocalStorage)
    return LocalShards(storage, layout, cache)
