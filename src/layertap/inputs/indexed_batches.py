"""Batches of a `keras.utils.PyDataset` by their numbers, from any row on."""

from collections.abc import Iterator
from typing import Any

from layertap.errors import DataError
from layertap.inputs.elements import count
from layertap.inputs.sources import check_end, of_dataset


class IndexedBatches:
    """Batches of one size but for the last: where a row is follows from its number.

    Args:
        dataset: The `keras.utils.PyDataset`. Its first and its last batch are read.
        specs: As of `feed.Feed`.

    Attributes:
        rows: How many rows there are.
        size: How many rows each batch has, but for the last.

    Raises:
        DataError: If it has no end, or its batches are not of one size.
    """

    batch_size = None
    stable = False

    def __init__(self, dataset: Any, specs: Any) -> None:
        check_end(dataset)
        self._dataset = dataset
        self._specs = specs
        self._batches = int(dataset.num_batches)
        self.size = self.rows = 0
        if self._batches:
            self.size = last = self._read_size(0)
            if self._batches > 1:
                last = self._read_size(self._batches - 1)
            self._check(self._batches - 1, last)
            self.rows = self.size * (self._batches - 1) + last

    def peek(self) -> Iterator[Any]:
        """Yields the first element."""
        # Read once more: a data set may fill one buffer anew for each batch.
        return (element for _, element in self.elements(0, 1))

    def elements(self, start: int, stop: int | None) -> Iterator[tuple[int, Any]]:
        """Yields what has the rows from one on, each with the number of its first."""
        stop = self.rows if stop is None else min(stop, self.rows)
        if start >= stop:
            return
        numbers = range(start // self.size, -(-stop // self.size))
        for number, element in zip(
            numbers, of_dataset(self._dataset, numbers), strict=True
        ):
            self._check(number, count(element, self._specs))
            yield number * self.size, element

    def _read_size(self, number: int) -> int:
        (element,) = of_dataset(self._dataset, range(number, number + 1))
        return count(element, self._specs)

    def _check(self, number: int, rows: int) -> None:
        last = number == self._batches - 1
        if 0 < rows == self.size or (last and 0 < rows < self.size):
            return
        raise DataError(
            f"Batch {number} of {type(self._dataset).__name__} has {rows} rows, its "
            f"first batch {self.size}. Where any row is read by its number, all "
            "batches have one size, and the last one at most that. Save data of other "
            "batches with layertap.save."
        )
