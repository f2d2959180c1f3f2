"""Saved values by address, and their rows in batches."""

import operator
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import text, tree, values
from layertap.core.address import IDS, LABELS, OVERFLOWED, SAMPLE_WEIGHT
from layertap.core.freed_memory import keep_freed_memory
from layertap.core.plan import Plan
from layertap.errors import StoreCorruptError, check_number
from layertap.results import manifest
from layertap.results.joined_array import ValueArray
from layertap.results.training.row_order import RowOrder
from layertap.store.reading.array import LazyArray
from layertap.store.reading.reader import Reader

Rows = slice | NDArray[np.intp]

# Bytes that are read at once: about what the processor's cache holds.
_READ_BYTES = 2**20


class SavedRows(values.PlannedValues[ValueArray]):
    """Values on disk, by address, with their labels, weights and ids."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # For the batches that are read.
        keep_freed_memory()
        self.reader = Reader(path)
        self.path = os.fspath(path)
        self.complete = self.reader.complete
        with manifest.report_damage(path):
            self.plan = Plan.from_json(self.reader.attributes["plan"])
            self.identity: dict[str, Any] = dict(self.reader.attributes["identity"])
            manifest.check_arrays(self.plan, self.reader)
            manifest.check_ids(self.identity[IDS], self.reader)
            self.labels: ValueArray | Any = manifest.resolve(
                self.identity[LABELS], self.reader
            )
            weights = self.identity.get(SAMPLE_WEIGHT)
            self.sample_weight = manifest.resolve(weights, self.reader)
            self.notes = manifest.read_notes(self.reader)
            self.class_names: list[str] = self.notes["class_names"]
            self.skipped: dict[str, str] = self.notes["skipped"]
            self.passed_over: dict[str, int] = self.notes["passed_over"]
            self.not_used: list[str] = self.notes["not_used"]
            self._arrays = manifest.value_arrays(self.plan, self.reader)

    @property
    def rows(self) -> int:
        """The number of committed rows."""
        return self.reader.rows

    @property
    def ids(self) -> NDArray[Any] | None:
        """The ids that were passed to `save`, one for each row, or None."""
        return None if self.identity[IDS] is None else self.ids_of(slice(None))

    def ids_of(self, rows: Rows) -> NDArray[Any]:
        """Returns the ids of some rows.

        Args:
            rows: A slice, or row numbers.

        Raises:
            AddressError: If no ids were passed to `save`.
        """
        ids = self.reader.array(IDS)[rows]
        if self.identity[IDS] != "text":
            return ids
        try:
            return text.decode(ids)
        except (UnicodeDecodeError, MemoryError) as error:
            raise StoreCorruptError(
                f"The ids of {self.path} are not UTF-8, or too long ({error}). Save "
                "the values again."
            ) from error

    @property
    def overflowed(self) -> dict[str, int]:
        """How many finite numbers `dtype=` made infinite, by address, without zeros."""
        plan, reader = self.plan, self.reader
        if not plan.narrowed:
            return {}
        counts = np.zeros(len(plan.narrowed), np.int64)
        for start in range(0, reader.rows, reader.block_rows):
            part = reader.array(OVERFLOWED)[start : start + reader.block_rows]
            counts += part.sum(axis=0, dtype=np.int64)
        return values.overflow_counts(plan, counts)

    def _auxiliary_array(self, name: str) -> LazyArray:
        return self.reader.array(name)

    def __getitem__(self, name: str) -> ValueArray:
        if name not in self.plan.known:
            raise values.unknown_address(self.plan, name)
        return self._arrays[name]

    def batches(
        self, n: int, *, shuffle: bool = False, seed: int | None = None
    ) -> Iterator[values.Values]:
        """Yields all rows in batches.

        Args:
            n: Rows per batch; the last batch may have fewer.
            shuffle: Whether to shuffle the store's blocks, and the rows in each block.
            seed: Makes the random order repeatable.

        Yields:
            Each batch as `Values`.

        Raises:
            OptionError: If `n` or `seed` is out of range.
        """
        check_number("`n`", n, 1)
        size = self.reader.block_rows
        order = RowOrder(range(self.rows), size, shuffle=shuffle, seed=seed)
        # Small batches are read together.
        arrays = map(self.reader.array, self.reader.paths)
        row_bytes = sum(array.row_bytes for array in arrays)
        read_rows = n * max(_READ_BYTES // (n * row_bytes), 1)
        for rows in self._read_ahead(order, read_rows):
            read = self._read(rows)
            for start in range(0, read.rows, n):
                yield read.map(operator.itemgetter(slice(start, start + n)))

    def _read_ahead(self, order: RowOrder, n: int) -> Iterator[Rows]:
        """Yields all rows, `n` at a time, while their next blocks are read."""
        blocks, ends = zip(*order.blocks(), strict=True) if len(order) else ((), ())
        start = 0
        for end, _ in zip(ends, self.reader.ahead(blocks), strict=True):
            while start + n <= end or start < end == len(order):
                yield order.rows(start, min(start + n, end))
                start += n

    def _read(self, rows: Rows) -> values.Values:
        read = operator.itemgetter(rows)

        def read_all(names: Iterable[str]) -> dict[str, NDArray[Any]]:
            return {name: read(self.reader.array(name)) for name in names}

        return values.Values(
            self.plan,
            read_all(value.address for value in self.plan.stored),
            tree.mapped(read, self.labels),
            None if self.identity[IDS] is None else self.ids_of(rows),
            tree.mapped(read, self.sample_weight),
            read_all(values.auxiliary_arrays(self.plan)),
        )
