"""Arrays in Ray's object store, cut along their rows; what is sliced is fetched.

Ray is imported when something is put or fetched.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.inputs.lazy_array import LazyRows

PIECE = 64 * 2**20
# Rows may begin in one piece and end in the next.
_CACHED = 2


class Pieces(LazyRows):
    """An array whose rows lie, one piece after the other, in Ray's object store.

    A slice within one piece is a view of the store's memory, which can't be written
    to. It can be pickled; what is sent by Ray keeps the pieces alive.

    Args:
        refs: Ray's reference of each piece.
        rows: How many rows each piece has, at least one.
        row_shape: The shape of one row.
        dtype: The dtype of all pieces.
    """

    def __init__(
        self,
        refs: Sequence[Any],
        rows: Sequence[int],
        row_shape: Sequence[int],
        dtype: Any,
    ) -> None:
        self._refs = list(refs)
        self._starts = list(accumulate(rows, initial=0))
        self._cached: LRU[int, NDArray[Any]] = LRU(_CACHED)
        self._row_shape = tuple(row_shape)
        self._dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole, rows first."""
        return (self._starts[-1], *self._row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all pieces."""
        return self._dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns rows; only the pieces that have some of them are fetched."""
        first = bisect_right(self._starts, start) - 1
        end = bisect_left(self._starts, stop)
        parts = [
            piece[max(start - row, 0) : stop - row]
            for row, piece in zip(
                self._starts[first:end], self._pieces(first, end), strict=True
            )
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _pieces(self, first: int, end: int) -> list[NDArray[Any]]:
        cached = {i: self._cached.get(i) for i in range(first, end)}
        found = {i: piece for i, piece in cached.items() if piece is not None}
        missing = [i for i in cached if i not in found]
        if missing:
            import ray

            fetched = ray.get([self._refs[i] for i in missing])
            for i, piece in zip(missing, fetched, strict=True):
                found[i] = piece
                self._cached.put(i, piece)
        return [found[i] for i in cached]


def put(array: Any, piece: int = PIECE) -> Pieces:
    """Puts an array into Ray's object store, some rows at a time.

    Args:
        array: Anything that can be sliced along its rows, and has a shape and a dtype.
        piece: About how many bytes each piece has.
    """
    import ray

    # It needs Keras, and who only fetches pieces does not.
    from layertap.inputs.convert import array_of

    total, *row_shape = map(int, array.shape)
    # At least one of no rows, which has the dtype.
    sample = array_of(array[:1])
    row_bytes = max(sample.nbytes, 1)
    size = max(piece // row_bytes, 1)
    refs, rows = [], []
    for start in range(0, total, size):
        part = array_of(array[start : min(start + size, total)])
        refs.append(ray.put(np.ascontiguousarray(part)))
        rows.append(len(part))
    return Pieces(refs, rows, row_shape, sample.dtype)
