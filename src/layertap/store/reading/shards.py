"""The shards of an array, to read its committed rows from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

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

    @abstractmethod
    def read(self, rows: Rows, inner: Sequence[range] | None = None) -> NDArray[Any]:
        """Reads rows, or only some positions of their other axes."""

    @abstractmethod
    def ahead(self, rows: range) -> None:
        """Checks consecutive rows that will be needed soon; raises no errors."""

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
