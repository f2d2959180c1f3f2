"""Reads rows of saved values, with their labels and ids, into memory."""

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import text, tree
from layertap.core.address import IDS, OVERFLOWED
from layertap.core.values import Values, auxiliary_arrays, overflow_counts
from layertap.errors import StoreCorruptError
from layertap.results.manifest import Manifest
from layertap.results.training.row_order import RowOrder
from layertap.store import LazyArray, Reader

Rows = slice | NDArray[np.intp]

# Bytes that are read at once: about what the processor's cache holds.
_READ_BYTES = 2**20


class RowReader:
    """Reads rows of the store at `path`, whose manifest was checked."""

    def __init__(self, reader: Reader, manifest: Manifest, path: str) -> None:
        self._reader, self._manifest, self._path = reader, manifest, path

    def ids(self, rows: Rows) -> NDArray[Any]:
        """Reads the ids of rows; texts are decoded."""
        ids = self._reader.array(IDS)[rows]
        if self._manifest.ids != "text":
            return ids
        try:
            return text.decode(ids)
        except (UnicodeDecodeError, MemoryError) as error:
            raise StoreCorruptError(
                f"The ids of {self._path} are not UTF-8, or too long ({error}). Save "
                "the values again."
            ) from error

    def overflows(self) -> dict[str, int]:
        """Counts the overflows in all rows, by address."""
        plan, reader = self._manifest.plan, self._reader
        if not plan.narrowed:
            return {}
        counts = np.zeros(len(plan.narrowed), np.int64)
        for start in range(0, reader.rows, reader.block_rows):
            part = reader.array(OVERFLOWED)[start : start + reader.block_rows]
            counts += part.sum(axis=0, dtype=np.int64)
        return overflow_counts(plan, counts)

    def read(self, rows: Rows) -> Values:
        """Reads rows of all stored values."""
        manifest = self._manifest

        def read(array: LazyArray) -> NDArray[Any]:
            return array[rows]

        def read_all(names: Iterable[str]) -> dict[str, NDArray[Any]]:
            return {name: read(self._reader.array(name)) for name in names}

        return Values(
            manifest.plan,
            read_all(value.address for value in manifest.plan.stored),
            tree.mapped(read, manifest.labels),
            None if manifest.ids is None else self.ids(rows),
            tree.mapped(read, manifest.sample_weight),
            read_all(auxiliary_arrays(manifest.plan)),
        )

    def batches(self, n: int, order: RowOrder) -> Iterator[Values]:
        """Yields all rows, `n` at a time; small batches are read together."""
        arrays = map(self._reader.array, self._reader.paths)
        row_bytes = sum(array.row_bytes for array in arrays)
        read_rows = n * max(_READ_BYTES // (n * row_bytes), 1)
        for rows in self._read_ahead(order, read_rows):
            values = self.read(rows)
            for start in range(0, values.rows, n):
                yield values.map(itemgetter(slice(start, start + n)))

    def _read_ahead(self, order: RowOrder, n: int) -> Iterator[Rows]:
        """Yields all rows, `n` at a time, while their next blocks are read."""
        blocks, ends = zip(*order.blocks(), strict=True) if len(order) else ((), ())
        start = 0
        for end, _ in zip(ends, self._reader.ahead(blocks), strict=True):
            while start + n <= end or start < end == len(order):
                yield order.rows(start, min(start + n, end))
                start += n
