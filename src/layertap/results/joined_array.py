"""A value that is not stored itself: other arrays, joined when it is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import text
from layertap.errors import StoreError
from layertap.store.reading.array import LazyArray

# The most nesting, and the most parts of parts, of a value.
_MOST_DEPTH, _MOST_LEAVES = 200, 2**16


class JoinedArray:
    """Arrays that are joined along an axis when rows of them are read."""

    def __init__(self, parts: Sequence["ValueArray"], axis: int) -> None:
        first = parts[0].shape
        forms = {(p.dtype, p.shape[:axis], p.shape[axis + 1 :]) for p in parts}
        if len(forms) > 1 or not 1 <= axis < len(first):
            raise ValueError(f"{parts[:10]} can't be joined along axis {axis}")
        inner = [part for part in parts if isinstance(part, JoinedArray)]
        self.depth: int = 1 + max((part.depth for part in inner), default=0)
        self.leaves: int = len(parts) + sum(part.leaves - 1 for part in inner)
        if self.depth > _MOST_DEPTH or self.leaves > _MOST_LEAVES:
            raise ValueError(f"a value is made of {self.leaves} parts of parts")
        self._parts, self._axis = parts, axis
        size = sum(part.shape[axis] for part in parts)
        self.shape: tuple[int, ...] = (*first[:axis], size, *first[axis + 1 :])
        self.dtype: np.dtype[Any] = parts[0].dtype
        self.ndim: int = len(self.shape)
        # Of its parts, those of the fewest rows, and all that are read with them.
        self.chunk_rows: int = min(part.chunk_rows for part in parts)
        chunks = [part.chunk_bytes for part in parts]
        self.chunk_bytes: int | None = None
        if None not in chunks:
            self.chunk_bytes = sum(size for size in chunks if size is not None)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Indexes as NumPy does, and reads only the rows that the index needs."""
        index = index if isinstance(index, tuple) else (index,)
        rows = index[0] if index else slice(None)
        if rows is Ellipsis or rows is None:
            return self._read(slice(None))[index]
        if isinstance(rows, int | np.integer):
            row = int(rows) + (len(self) if rows < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"Row {rows} is out of range: there are {len(self)}.")
            return self._read(slice(row, row + 1))[(0, *index[1:])]
        return self._read(rows)[(slice(None), *index[1:])]

    def _read(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            count = len(range(len(self))[rows])
        else:
            rows = np.asarray(rows)
            count = int(rows.sum()) if rows.dtype == bool else len(rows)
        try:
            joined = np.empty((count, *self.shape[1:]), self.dtype)
        except (MemoryError, ValueError) as error:
            raise StoreError(
                f"{self!r} does not fit into memory. Read fewer rows at a time."
            ) from error
        self._fill(joined, rows)
        return joined

    def _fill(self, joined: NDArray[Any], rows: Any) -> None:
        start = 0
        for part in self._parts:
            end = start + part.shape[self._axis]
            place = joined[(slice(None),) * self._axis + (slice(start, end),)]
            if isinstance(part, JoinedArray):
                part._fill(place, rows)
            else:
                place[...] = part[rows]
            start = end

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self._read(slice(None))
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        parts = len(self._parts)
        return f"<layertap.JoinedArray {self.shape} {self.dtype}, of {parts}>"

    def _repr_html_(self) -> str:
        from layertap.core.display import values

        parts = [getattr(part, "path", repr(part)) for part in self._parts]
        joined = f"{text.listed(parts)}; along axis {self._axis}"
        return values.array("layertap.JoinedArray", self, [("joined of", joined)])


# A value on disk: stored, or joined of others.
ValueArray = LazyArray | JoinedArray
