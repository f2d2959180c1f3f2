"""A store as a `torch.utils.data.Dataset`."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.optional import require
from layertap.results.training.batches import Examples

torch = require("torch", "torch", "`Saved.torch`")
Dataset: Any = require("torch.utils.data", "torch", "`Saved.torch`").Dataset


class TorchDataset(Dataset):
    """Rows of saved values as tensors; see `Saved.torch`."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        (row,) = self.__getitems__([operator.index(index)])
        return row

    def __getitems__(self, indices: Sequence[int]) -> "RowBatch":
        """Reads rows together, as a `DataLoader` requests a batch."""
        places = np.asarray(indices, np.intp)
        count = len(self)
        outside = places[(places < -count) | (places >= count)]
        if outside.size:
            raise IndexError(f"Row {outside[0]} is out of range: there are {count}.")
        rows = self._examples.order.at(places % count)
        arrays = self._examples.read(rows)
        return RowBatch(
            self._examples.assemble([_tensor(array) for array in arrays]), len(places)
        )

    @staticmethod
    def collate(rows: "RowBatch") -> tuple[Any, ...]:
        """Returns the batch that rows came in, for `collate_fn=`."""
        return rows.batch


class RowBatch(Sequence[tuple[Any, ...]]):
    """Rows that were read together, each a view of the tensors of the batch."""

    def __init__(self, batch: tuple[Any, ...], count: int) -> None:
        self.batch = batch
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(f"Row {index} is out of range: there are {self._count}.")
        return tree.mapped(operator.itemgetter(index), self.batch)


def _tensor(array: NDArray[Any]) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
