"""Reads a store: what is committed, and no more of it than is asked for."""

import math
import operator
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from layertap.core import address
from layertap.errors import AddressError, StoreError
from layertap.store.format import digests
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.metadata import check_groups, read_layouts
from layertap.store.format.root import read_root
from layertap.store.location import locate
from layertap.store.location.base import array_size
from layertap.store.reading.array import shards_of
from layertap.store.reading.local_shards import Part, ShardCache, shard_cache
from layertap.store.storage.base import Storage

# How many threads read ahead of the block that is used, one block.
_READERS = 2


class LazyArray:
    """An array on disk. It is read when it is indexed, chunk by chunk.

    It is indexed as in NumPy with integers, slices and `...`; the rows also with one
    array of integers or booleans. What comes back is a NumPy array.

    Args:
        storage: The files of its store.
        layout: How it is stored.
        rows: How many rows it has.
        held: Where its files are held open.
    """

    def __init__(
        self, storage: Storage, layout: ArrayLayout, rows: int, held: ShardCache
    ) -> None:
        self._layout = layout
        self._storage = storage
        self._shards = shards_of(storage, layout, held)
        self.shape: tuple[int, ...] = (rows, *layout.spec.shape)
        self.dtype = layout.spec.numpy_dtype

    @property
    def path(self) -> str:
        """Its place inside the store."""
        return self._layout.spec.path

    @property
    def attributes(self) -> dict[str, Any]:
        """What else is known of it."""
        return _attributes(self._layout)

    @property
    def ndim(self) -> int:
        """The number of axes, that of the rows among them."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that all its rows take in memory."""
        return self.size * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """The bytes that one row takes in memory."""
        return self._layout.spec.row_bytes

    @property
    def chunk_rows(self) -> int:
        """The rows that are read together, at least."""
        return self._layout.chunk_rows

    @property
    def block_rows(self) -> int:
        """The rows that are in one file."""
        return self._layout.block_rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Reads a part of the array.

        Raises:
            IndexError: If the index is none, or outside of the array.
            StoreCorruptError: If what is on disk is not what was written.
        """
        if isinstance(index, slice) and index.step is None:
            return self._shards.read(range(*index.indices(len(self))))
        wanted, turn = _split(index, self.shape)
        rows, inner = wanted
        part: NDArray[Any] = self._shards.read_parts(rows, inner)[turn]
        return part

    def ahead(self, rows: range) -> None:
        """Reads and checks rows that will be wanted soon.

        What is wrong with them is told when they are read.

        Args:
            rows: Rows that follow each other.
        """
        self._shards.ahead(rows)

    def check(self) -> Iterator[tuple[range, StoreError | None]]:
        """Reads all committed rows, block by block, and says what is wrong with them.

        Each chunk is checked by its checksum, and each block by its digest, which
        finds a file that is whole but of another block, array, store or time.

        Yields:
            The rows of a block, and what is wrong with them, or None.
        """
        layout = self._layout
        # Anew, and all its rows: a writer may not have committed them of all arrays.
        shards = shards_of(self._storage, layout, shard_cache(1))
        for block in range(layout.blocks):
            rows = layout.rows_of(block)
            try:
                values = shards.read(rows)
            except StoreError as error:
                yield rows, error
                continue
            right = digests.digest_rows(values) == layout.digest(block)
            yield rows, None if right else shards.damaged(block, digests.WRONG_ROWS)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self!r} is on disk: it can't be had without a copy.")
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"<layertap.LazyArray {self.path} {self.shape} {self.dtype}>"


def _split(
    index: Any, shape: tuple[int, ...]
) -> tuple[tuple[Part, list[range]], tuple[Any, ...]]:
    """Splits an index into what to read and how to turn that round.

    Args:
        index: An index as of NumPy.
        shape: The shape of what is indexed.

    Returns:
        What to read: of the rows, a range that goes up or positions; of each other
        axis such a range. And the index that makes of it what was asked for.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = [n for n, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1 or len(parts) - len(ellipses) > len(shape):
        raise IndexError(f"Index {index} has more parts than shape {shape} has axes.")
    at = ellipses[0] if ellipses else len(parts)
    missing = len(shape) - (len(parts) - len(ellipses))
    parts[at : at + 1] = [slice(None)] * missing
    split = [
        _axis(part, size, axis)
        for axis, (part, size) in enumerate(zip(parts, shape, strict=True))
    ]
    rows, *others = (wanted for wanted, _ in split)
    inner = [wanted for wanted in others if isinstance(wanted, range)]
    return (rows, inner), tuple(turn for _, turn in split)


def _axis(part: Any, size: int, axis: int) -> tuple[Part, Any]:
    """Splits the index of one axis as `_split` does that of all."""
    if isinstance(part, slice):
        wanted = range(size)[part]
        if wanted.step > 0:
            return wanted, slice(None)
        return wanted[::-1], slice(None, None, -1)
    if axis == 0 and isinstance(part, list | np.ndarray) and np.ndim(part) == 1:
        return _positions(part, size), slice(None)
    try:
        if isinstance(part, bool | np.bool_):
            raise TypeError
        position = operator.index(part)
    except TypeError:
        raise IndexError(
            f"Axis {axis} can't be indexed with {part!r}. Use integers, slices and "
            "`...`; for the rows also one array of integers or booleans."
        ) from None
    if not -size <= position < size:
        raise IndexError(f"{position} is outside of axis {axis}, which has {size}.")
    position %= size
    return range(position, position + 1), 0


def _positions(part: ArrayLike, size: int) -> NDArray[np.intp]:
    """Returns the positions that an array of integers or booleans stands for."""
    array = np.asarray(part)
    if array.dtype == bool and len(array) == size:
        return np.flatnonzero(array)
    if not array.size:
        return np.empty(0, np.intp)
    if array.dtype.kind not in "iu":
        raise IndexError(
            f"Rows can't be indexed with {len(array)} values of {array.dtype}. Use "
            f"integers, or one boolean for each of the {size} rows."
        )
    outside = array[(array < -size) | (array >= size)]
    if outside.size:
        raise IndexError(f"{outside[0]} is outside of axis 0, which has {size}.")
    positions = array.astype(np.intp)
    return np.where(positions < 0, positions + size, positions)


@dataclass(frozen=True)
class Member:
    """What is known of an array without reading its values.

    Args:
        path: Its place in the store.
        shape: Its shape, rows and all.
        dtype: The name of its dtype.
        attributes: What else is known of it.
        compression: None or `"zstd"`.
        chunk_rows: The rows of a chunk.
        files: The number of its files.
        bytes_on_disk: Their bytes; None if only reading them would tell, as of what is
            compressed in an object store.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    attributes: dict[str, Any]
    compression: str | None
    chunk_rows: int
    files: int
    bytes_on_disk: int | None


class Reader:
    """A store as it is committed now. Nothing is ever written.

    More rows may be committed later, by a writer at work: they are seen by a new
    reader.

    Args:
        path: The folder of the store.

    Raises:
        NotAStoreError: If there is none.
        StoreFormatError: If a newer layertap wrote it.
        StoreCorruptError: If it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._storage = locate(path).storage
        root = read_root(self._storage)
        layouts = read_layouts(self._storage, root)
        self.attributes: dict[str, Any] = dict(root.attributes)
        self.complete: bool = root.complete
        self.store: str = root.store
        # An array may be ahead of the others, while rows are being committed.
        self.rows: int = min(layout.rows for layout in layouts)
        self.block_rows: int = layouts[0].block_rows
        held = shard_cache(len(layouts))
        self._arrays = {
            layout.spec.path: LazyArray(self._storage, layout, self.rows, held)
            for layout in layouts
        }
        self._layouts = layouts
        self._root = root

    @property
    def path(self) -> str:
        """The path or the URL of the store."""
        return str(self._storage)

    @property
    def paths(self) -> list[str]:
        """The paths of all arrays, in the order they were given in."""
        return list(self._arrays)

    def array(self, path: str) -> LazyArray:
        """Returns an array; its values are read when it is indexed.

        Args:
            path: The path of the array.

        Raises:
            AddressError: If there is none.
        """
        if path not in self._arrays:
            raise AddressError(
                f"{self.path} has no array {path!r}. "
                + address.suggest(path, self.paths, what="array")
            )
        return self._arrays[path]

    def ahead(self, blocks: Sequence[int]) -> Iterator[int]:
        """Yields the numbers of blocks, each when its rows were read and checked.

        Those that come next are read meanwhile. What is wrong with a block is told when
        its rows are taken.

        Args:
            blocks: Which blocks, in which order.
        """
        reading: deque[list[Future[None]]] = deque()
        pool = ThreadPoolExecutor(_READERS, "layertap-ahead")
        try:
            for at, block in enumerate(blocks):
                while len(reading) + at < min(at + 2, len(blocks)):
                    following = blocks[at + len(reading)]
                    start = following * self.block_rows
                    rows = range(start, min(start + self.block_rows, self.rows))
                    arrays = self._arrays.values()
                    reading.append([pool.submit(a.ahead, rows) for a in arrays])
                wait(reading.popleft())
                yield block
        finally:
            pool.shutdown(cancel_futures=True)

    def check_groups(self) -> None:
        """Reads the metadata of the groups that the arrays are in.

        Raises:
            StoreCorruptError: If that of one is damaged or missing.
            StoreError: If it can't be read.
        """
        check_groups(self._storage, self._root)

    def members(self) -> list[Member]:
        """Returns what is known of all arrays without reading their values."""
        return [self._member(layout) for layout in self._layouts]

    def _member(self, layout: ArrayLayout) -> Member:
        files, on_disk = array_size(self._storage, layout)
        return Member(
            path=layout.spec.path,
            shape=(self.rows, *layout.spec.shape),
            dtype=layout.spec.dtype,
            attributes=_attributes(layout),
            compression=layout.compression,
            chunk_rows=layout.chunk_rows,
            files=files,
            bytes_on_disk=on_disk,
        )

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return (
            f"<layertap.Reader {self.path}: {len(self._arrays)} arrays, "
            f"{self.rows:,} rows, {state}>"
        )


def _attributes(layout: ArrayLayout) -> dict[str, Any]:
    return {**layout.others, **layout.spec.attributes}
