"""A store as a `torch.utils.data.Dataset`."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.optional import require
from layertap.results.training.batches import Examples

torch = require("torch", "torch", "`Saved.torch`")
Dataset: Any = require("torch.utils.data", "torch", "`Saved.torch`").Dataset


class TorchDataset(Dataset):
    """Rows of saved values as tensors, as `Saved.torch` describes them.

    Args:
        examples: What is read.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        (row,) = self.__getitems__([operator.index(index)])
        return row

    def __getitems__(self, indices: Sequence[int]) -> "Together":
        """Reads some rows in one go, as a `DataLoader` asks for a batch."""
        places = np.asarray(indices, np.intp)
        count = len(self)
        outside = places[(places < -count) | (places >= count)]
        if outside.size:
            raise IndexError(f"Row {outside[0]} of {count}.")
        rows = self._examples.order.at(places % count)
        arrays = self._examples.read(rows)
        return Together(
            self._examples.formed([_tensor(array) for array in arrays]), len(places)
        )

    @staticmethod
    def collate(rows: "Together") -> tuple[Any, ...]:
        """Returns rows as a batch, without taking it apart: for `collate_fn=`."""
        return rows.batch


class Together(Sequence[tuple[Any, ...]]):
    """Rows that were read together, each a view of the batch.

    Args:
        batch: The tensors of all.
        count: How many there are.
    """

    def __init__(self, batch: tuple[Any, ...], count: int) -> None:
        self.batch = batch
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(f"Row {index} of {self._count}.")
        return tree.mapped(operator.itemgetter(index), self.batch)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return map(self.__getitem__, range(self._count))


def _tensor(array: NDArray[Any]) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
