"""A value that is not stored itself: others, joined when it is read."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import StoreError

if TYPE_CHECKING:
    from layertap.store import LazyArray

# No value is made of more parts, however nested.
_MOST_DEPTH, _MOST_LEAVES = 200, 2**16


class JoinedArray:
    """A value that is not stored itself: other arrays, joined when it is read.

    Args:
        parts: The arrays.
        axis: The axis along which they are joined.

    Raises:
        ValueError: If they can't be joined so.
    """

    def __init__(self, parts: "list[LazyArray | JoinedArray]", axis: int) -> None:
        forms = {(p.dtype, p.shape[:axis], p.shape[axis + 1 :]) for p in parts}
        if len(forms) > 1 or not 1 <= axis < parts[0].ndim:
            raise ValueError(f"{parts[:10]} can't be joined along axis {axis}")
        inner = [part for part in parts if isinstance(part, JoinedArray)]
        self.depth: int = 1 + max((part.depth for part in inner), default=0)
        self.leaves: int = len(parts) + sum(part.leaves - 1 for part in inner)
        if self.depth > _MOST_DEPTH or self.leaves > _MOST_LEAVES:
            raise ValueError(f"a value is made of {self.leaves} parts of parts")
        self._parts = parts
        self._axis = axis
        first = parts[0].shape
        joined = sum(part.shape[axis] for part in parts)
        self.shape: tuple[int, ...] = (*first[:axis], joined, *first[axis + 1 :])
        self.dtype: np.dtype[Any] = parts[0].dtype
        self.ndim: int = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Reads as NumPy indexes; of the rows, no more than are asked for."""
        index = index if isinstance(index, tuple) else (index,)
        rows = index[0] if index else slice(None)
        if rows is Ellipsis or rows is None:
            found: NDArray[Any] = self._read(slice(None))[index]
        elif isinstance(rows, int | np.integer):
            row = int(rows) + (len(self) if rows < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"Row {rows} of {len(self)}.")
            found = self._read(slice(row, row + 1))[(0, *index[1:])]
        else:
            found = self._read(rows)[(slice(None), *index[1:])]
        return found

    def _read(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            count = len(range(len(self))[rows])
        else:
            rows = np.asarray(rows)
            count = int(rows.sum()) if rows.dtype == bool else len(rows)
        try:
            whole = np.empty((count, *self.shape[1:]), self.dtype)
        except (MemoryError, ValueError) as error:
            raise StoreError(
                f"{self!r} does not fit into memory. Read fewer rows at a time."
            ) from error
        self._fill(whole, rows)
        return whole

    def _fill(self, whole: NDArray[Any], rows: Any) -> None:
        start = 0
        for part in self._parts:
            end = start + part.shape[self._axis]
            place = whole[(slice(None),) * self._axis + (slice(start, end),)]
            if isinstance(part, JoinedArray):
                part._fill(place, rows)
            else:
                place[...] = part[rows]
            start = end

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self._read(slice(None))
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return (
            f"<layertap.JoinedArray {self.shape} {self.dtype}, of {len(self._parts)}>"
        )
