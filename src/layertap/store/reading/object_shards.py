"""The shards of an array in an object store, read by TensorStore.

It asks for the chunks that are needed and no more, several at a time, and checks the
checksum of each.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import StoreError
from layertap.store.format.layout import ArrayLayout
from layertap.store.format.metadata import parse_layout
from layertap.store.reading.local_shards import Part, ShardCache
from layertap.store.storage import errors
from layertap.store.storage.objects import ObjectStorage
from layertap.store.storage.tensorstore import message_of, tensorstore

# What TensorStore says of bytes that are not those that were written.
_DAMAGE = ("DATA_LOSS", "NOT_FOUND", "INVALID_ARGUMENT", "OUT_OF_RANGE")


class ObjectShards:
    """The shards of an array, to read its committed rows from: see `Shards`.

    Args:
        storage: The objects of the store.
        layout: The array.
        held: Not used: TensorStore has a cache of its own.
    """

    def __init__(
        self, storage: ObjectStorage, layout: ArrayLayout, held: ShardCache
    ) -> None:
        self._storage = storage
        self._folder = storage.path_of(layout.spec.path)
        self._layout = layout
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens it anew.
        return {**self.__dict__, "_opened": None}

    def read(self, rows: Part) -> NDArray[Any]:
        """As of `Shards`."""
        return self.read_parts(rows, [range(size) for size in self._layout.spec.shape])

    def read_parts(self, rows: Part, inner: Sequence[range]) -> NDArray[Any]:
        """As of `Shards`."""
        dtype = self._layout.spec.numpy_dtype
        if not len(rows) or not all(map(len, inner)):
            return np.empty((len(rows), *map(len, inner)), dtype)
        wanted = (rows if isinstance(rows, np.ndarray) else _slice(rows), ...)
        parts = tuple(_slice(part) for part in inner)
        # Asked at the same time: one small answer more, and nothing to wait for.
        changed = self._storage.changed(self._layout.metadata_file)
        try:
            found = self._array()[wanted][(slice(None), *parts)].read().result()
        except ValueError as error:
            raise self._told(rows, error) from error
        self._check_store(changed)
        return np.asarray(found).view(dtype)

    def ahead(self, rows: range) -> None:
        """As of `Shards`: what is read stays for a while in TensorStore's cache."""
        with suppress(StoreError, MemoryError):
            self.read(rows)

    def damaged(self, block: int, what: str) -> StoreError:
        """As of `Shards`."""
        rows = self._layout.rows_of(block)
        told = f"with rows {rows[0]} to {rows[-1]} of {self._layout.spec.path} {what}"
        return errors.damaged(
            self._storage.path_of(self._layout.shard_file(block)), told
        )

    def _array(self) -> Any:
        if self._opened is None:
            # What is in the marker was read before, when the store was opened.
            spec = {
                "driver": "zarr3",
                "metadata": self._layout.described(),
                "fill_missing_data_reads": False,
                "recheck_cached_data": False,
            }
            self._opened = (
                tensorstore()
                .open(
                    spec,
                    kvstore=self._storage.key_values(self._layout.spec.path),
                    open=True,
                    assume_metadata=True,
                    context=self._storage.context,
                )
                .result()
            )
        return self._opened

    def _told(self, rows: Part, error: ValueError) -> StoreError:
        """Returns what to tell of an error of TensorStore's."""
        said = message_of(error)
        for block in range(self._layout.blocks):
            # It names the object, whose name is that of the block.
            name = self._layout.shard_file(block)
            if said.startswith(_DAMAGE) and f'{name}"' in said:
                if not self._storage.exists(name):
                    return self.damaged(block, "is missing")
                return self.damaged(block, f"is damaged ({said})")
        first, last = int(min(rows)), int(max(rows))
        return StoreError(
            f"{self._folder}: rows {first} to {last} can't be read: {said}. Check the "
            "connection and the credentials."
        )

    def _check_store(self, changed: Any) -> None:
        """Checks that the array is still the one that was opened.

        Raises:
            StoreError: If another store has taken its place.
        """
        try:
            if changed.result().state == "unspecified":
                return
            name, storage = self._layout.metadata_file, self._storage
            parse_layout(
                self._layout.spec.path,
                storage.path_of(name),
                storage.read_json(name),
                self._layout.store,
            )
        except (ValueError, OSError) as error:
            raise StoreError(
                f"{self._folder} is not what it was when it was opened, and another "
                f"store may have taken its place. Open it again. ({error})"
            ) from error


def _slice(rows: range) -> slice:
    return slice(rows[0], rows[-1] + 1, rows.step)
