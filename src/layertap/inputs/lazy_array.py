"""Arrays of rows that are read when they are sliced."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class LazyRows(ABC):
    """What can be sliced along its first axis, and reads only what a slice needs."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Its shape, rows first."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        wanted = range(*rows.indices(len(self)))
        if not wanted:
            return np.empty((0, *self.shape[1:]), self.dtype)
        found = self.read(min(wanted), max(wanted) + 1)
        return found if wanted.step == 1 else found[:: wanted.step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns rows, at least one of them, from `start` to before `stop`."""
