"""Reads any data that `model.predict` accepts in batches for the model."""

from collections.abc import Iterator
from typing import Any

from layertap.errors import DataError
from layertap.inputs.convert import Batch, Converter
from layertap.inputs.sources import open_source


class Feed:
    """Data as batches, always cut at the same rows.

    A tuple is `(x, y)` or `(x, y, sample_weight)`, unless a model of several inputs
    accepts it. A list is several inputs; from a `DataLoader` or a `PyDataset` it is a
    tuple, as in Keras. With `anywhere`, batches are read from any row on without those
    before them: streams are refused, and a `PyDataset` needs batches of one size.

    Attributes:
        rows: The number of rows, or None if only the end shows it.
        batch_size: Rows per batch, or None if the data bring their own batches.
        size: Rows of every batch but the last, or None if batches have any size.
        again: Whether the data can be read more than once.
    """

    def __init__(
        self,
        data: Any,
        specs: Any = None,
        batch_size: int | None = None,
        *,
        anywhere: bool = False,
    ) -> None:
        self._converter = Converter(specs)
        self._source = open_source(data, self._converter, batch_size, anywhere=anywhere)
        self.rows = self._source.rows
        self.batch_size = self._source.batch_size
        self.size = self._source.size
        self.again = not isinstance(data, Iterator)
        self._first: Batch | None = None

    def first(self) -> Batch:
        """Returns the first batch. A one-shot iterator loses nothing by it."""
        if self._first is not None:
            return self._first
        for element in self._source.peek():
            self._first = next(self._convert(element, 0).parts(self.batch_size))
            self._converter.check_rows(self._first)
            return self._first
        raise DataError(
            "The data are empty. Expected at least one row. If they are an iterator "
            "that was used up before, create a new one."
        )

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yields the batches, from the one that holds the row `start`.

        They are cut as in a run from row 0. Streams are read from their beginning. The
        last batch is the one that holds the row before `stop`; nothing after it is
        read. None is the end of the data.
        """
        first = self.first().forms()
        for row, element in self._source.elements(start, stop):
            batch = self._convert(element, row)
            _check_forms(batch.forms(), first, row)
            for part in batch.parts(self.batch_size):
                if stop is not None and part.row >= stop:
                    return
                self._converter.check_rows(part)
                yield part

    def _convert(self, element: Any, row: int) -> Batch:
        return self._converter.convert(element, row, copy=not self._source.stable)


def _check_forms(forms: dict[str, str], first: dict[str, str], row: int) -> None:
    for name in {**first, **forms}:
        if forms.get(name) != first.get(name):
            raise DataError(
                f"The batch from row {row} on differs from the first batch in {name}. "
                f"Expected {first.get(name, 'nothing')}. Received "
                f"{forms.get(name, 'nothing')}."
            )
