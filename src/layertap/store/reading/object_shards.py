"""Shards that are objects of a bucket, read by TensorStore.

It requests only the chunks that are needed, several at a time, and checks their
checksums.
"""

import math
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import StoreError
from layertap.store.reading.indexing import Rows
from layertap.store.reading.shards import Shards
from layertap.store.storage.buckets import check_not_forked, message_of, tensorstore
from layertap.store.storage.objects import ObjectStorage

# The errors of TensorStore about bytes that are not those that were written.
_DAMAGE = ("DATA_LOSS", "NOT_FOUND", "INVALID_ARGUMENT", "OUT_OF_RANGE")


# For so many seconds after a check that the store is still there, none is made: single
# rows would cost twice as many requests.
_TRUSTED = 1.0


class ObjectShards(Shards):
    """Shards that are objects. TensorStore caches their chunks for a while."""

    _storage: ObjectStorage
    # When the store was still there, on the monotonic clock.
    _checked = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the array again, and has another clock.
        kept = self.__dict__.keys() - {"_array", "_checked"}
        return {name: self.__dict__[name] for name in kept}

    def _read(self, rows: Rows, inner: Sequence[range]) -> NDArray[Any]:
        row_part = rows if isinstance(rows, np.ndarray) else _slice(rows)
        parts = (slice(None), *map(_slice, inner))
        check_not_forked()
        now, metadata = time.monotonic(), None
        if now - self._checked >= _TRUSTED:
            # Requested at the same time as the chunks: nothing waits for it.
            metadata = self._storage.changed(self._layout.metadata_file)
        try:
            values = self._array[row_part, ...][parts].read().result()
        except ValueError as error:
            raise self._error(rows, error) from error
        if metadata is not None:
            self._check_store(metadata)
            self._checked = now
        return np.asarray(values).view(self._layout.spec.numpy_dtype)

    @cached_property
    def _array(self) -> Any:
        # The array's metadata were read when the store was opened.
        spec = {
            "driver": "zarr3",
            "metadata": self._layout.structure(),
            "fill_missing_data_reads": False,
            "recheck_cached_data": False,
        }
        values = self._storage.key_values(self._layout.spec.path)
        context = self._storage.context
        opening = tensorstore().open(
            spec, kvstore=values, context=context, open=True, assume_metadata=True
        )
        return opening.result()

    def _error(self, rows: Rows, error: ValueError) -> StoreError:
        """Returns the error of rows that TensorStore could not read."""
        message = message_of(error)
        if message.startswith(_DAMAGE):
            for block in range(self._layout.blocks):
                # TensorStore names the object.
                name = self._layout.shard_file(block)
                if f'{name}"' in message:
                    missing = not self._storage.exists(name)
                    return self.damaged(
                        block, "is missing" if missing else f"is damaged ({message})"
                    )
        first, last = int(min(rows)), int(max(rows))
        return StoreError(
            f"{self._folder}: rows {first} to {last} can't be read: {message}. Check "
            "the connection and the credentials."
        )

    def _check_store(self, metadata: Any) -> None:
        """Raises StoreError if another store has taken the place of this one."""
        try:
            # The state of an object that has not changed.
            if metadata.result().state != "unspecified":
                self._check_metadata()
        except (ValueError, OSError) as error:
            raise self._replaced(error) from error


def _slice(positions: range) -> slice:
    return slice(positions[0], positions[-1] + 1, positions.step)
