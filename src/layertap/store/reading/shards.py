"""The shards of an array, to read its committed rows from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import StoreCorruptError, StoreError
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.metadata import read_layout
from layertap.store.reading.indexing import Rows
from layertap.store.storage.base import Storage
from layertap.store.storage.errors import damaged


class Shards(ABC):
    """The shards of an array. Their files are only opened when they are read."""

    def __init__(self, storage: Storage, layout: ArrayLayout) -> None:
        self._folder = storage.path_of(layout.spec.path)
        self._storage = storage
        self._layout = layout

    def read(self, rows: Rows, inner: Sequence[range] | None = None) -> NDArray[Any]:
        """Reads rows, or only some positions of their other axes."""
        spec = self._layout.spec
        inner = [range(size) for size in spec.shape] if inner is None else inner
        shape = (len(rows), *map(len, inner))
        if 0 in shape:
            return np.empty(shape, spec.numpy_dtype)
        return self._read(rows, inner)

    @abstractmethod
    def _read(self, rows: Rows, inner: Sequence[range]) -> NDArray[Any]:
        """Reads at least one row, and at least one position of each other axis."""

    def ahead(self, rows: range) -> None:
        """Reads and checks consecutive rows that will be needed soon."""
        self.read(rows)

    def damaged(self, block: int, problem: str) -> StoreCorruptError:
        """Returns the error of a damaged shard. `problem` completes the sentence."""
        rows = self._layout.row_range(block)
        return damaged(
            self._storage.path_of(self._layout.shard_file(block)),
            f"with rows {rows[0]} to {rows[-1]} of {self._layout.spec.path} {problem}",
        )

    def _check_metadata(self) -> None:
        """Raises if the array is not in the store that was opened."""
        read_layout(self._storage, self._layout.spec.path, self._layout.store)

    def _replaced(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._folder} has changed since it was opened, and another store may "
            f"have taken its place. Open it again. ({error})"
        )
