"""Reads any data that `model.predict` accepts in batches for the model."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any, Self

import keras
import numpy as np

from layertap.errors import DataError, ModelError
from layertap.inputs.columns import Table
from layertap.inputs.convert import OUTSIDE, Batch, Converter
from layertap.inputs.data_file import load_data
from layertap.inputs.lazy_array import (
    LazyRows,
    Versions,
    versions_of,
)
from layertap.inputs.sources import ArrayBatches, open_source
from layertap.tracing.backends import current_backend


class Feed:
    """Data as batches, always cut at the same rows.

    A tuple is `(x, y)` or `(x, y, sample_weight)`, unless a model of several inputs
    accepts it. A list is several inputs; from a `DataLoader` or a `PyDataset` it is a
    tuple, as in Keras. With `anywhere`, batches are read from any row on without those
    before them: streams are refused, and a `PyDataset` needs batches of one size.
    `labels` and `ids` are columns of the data; `ids` may also be one id for each row.

    Attributes:
        rows: The number of rows, or None if only the end shows it.
        batch_size: Rows per batch, or None if the data bring their own batches.
        size: Rows of every batch but the last, or None if batches have any size.
        again: Whether the data can be read more than once.
        specs: The input specs that the model declares, or None.
        images: The folder of images among the inputs, or None.
    """

    def __init__(
        self,
        data: Any,
        specs: Any = None,
        batch_size: int | None = None,
        *,
        anywhere: bool = False,
        labels: str | None = None,
        ids: Any = None,
    ) -> None:
        if current_backend().traces():
            raise ModelError(
                "layertap was called inside a function that the backend traces, where "
                f"arrays have no values. {OUTSIDE}"
            )
        if isinstance(data, str | os.PathLike):
            columns = [name for name in (labels, ids) if isinstance(name, str)]
            data = load_data(data, specs, columns)
        self.specs = specs
        self._converter = Converter(specs, labels, ids)
        self._source = open_source(data, self._converter, batch_size, anywhere=anywhere)
        self.rows = self._source.rows
        self.batch_size = self._source.batch_size
        self.size = self._source.size
        self.again = not isinstance(data, Iterator)
        self._parts = [
            array
            for leaf in (*keras.tree.flatten(data), ids)
            # A table is a leaf.
            for array in (leaf.columns() if isinstance(leaf, Table) else [leaf])
            if not isinstance(array, str | None)
        ]
        # Of the files of the data, and whether they show all changes of the data.
        self.versions: Versions = {}
        self.in_files = False
        column = ids is None or isinstance(ids, str)
        self._ids = self._source.ids if column else ids
        self.images = self._source.images
        self._first: Batch | None = None

    @cached_property
    def ids(self) -> Any:
        """An array of one id for each row, or None: batches may have their own."""
        if self._ids is None:
            return None
        # Lazy numbers stay where they are, and are read when they are sliced.
        lazy = isinstance(self._ids, LazyRows) and self._ids.dtype.kind in "iu"
        ids = self._ids if lazy else np.asarray(self._ids)
        return check_ids(ids, self.rows)

    @property
    def notes(self) -> dict[str, Any]:
        """Facts about the data that a store notes, as data for JSON."""
        unused = list(self._converter.columns.unused)
        notes = {**self._source.notes, "not_used": unused}
        return {name: note for name, note in notes.items() if note}

    @property
    def classes(self) -> Sequence[str]:
        """The strings that the labels were, if they were strings."""
        return self._source.classes

    def fit_classes(self, names: Sequence[str]) -> None:
        """Numbers labels that were strings as a store does that has these."""
        if isinstance(self._source, ArrayBatches) and self.classes:
            self._source.fit_classes(names)
            self._first = None

    def watched(self) -> Self:
        """Notes the `versions` of the data's files: later ones are changes."""
        self.versions = self._current_versions()
        self.in_files = all(map(versions_of, self._parts))
        return self

    def _current_versions(self) -> Versions:
        found = [versions_of(part).items() for part in self._parts]
        return dict(chain.from_iterable(found))

    def check_unchanged(self) -> None:
        """Raises DataError if a file was changed since `watched` was called."""
        current = self._current_versions()
        for file in {**self.versions, **current}:
            before, now = self.versions.get(file), current.get(file)
            if before != now:
                raise DataError(
                    f"{file} was changed while it was read. Expected "
                    f"{before or 'no such file'}. Received {now or 'no such file'}. "
                    "The store is not complete, since it may have rows of both "
                    "versions. Save again with overwrite=True."
                )

    def check_rows(self, rows: int) -> None:
        """Checks that there are as many ids as rows of data."""
        if self.ids is not None:
            check_ids(self.ids, rows)

    def first(self) -> Batch:
        """Returns the first batch. A one-shot iterator loses nothing by it."""
        if self._first is not None:
            return self._first
        for element in self._source.peek():
            self._first = next(self._convert(element, 0).parts(self.batch_size))
            self._converter.check_rows(0, self._first.rows)
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
        one = self._source.stable and self.rows == self.first().rows
        if one and start == 0 != stop:
            yield self.first()
            return
        first = self.first().forms()
        for row, element in self._source.elements(start, stop):
            batch = self._convert(element, row)
            _check_forms(batch.forms(), first, row)
            for part in batch.parts(self.batch_size):
                if stop is not None and part.row >= stop:
                    return
                self._converter.check_rows(part.row, part.rows)
                yield replace(part, full=self._full_rows(part))

    def _full_rows(self, batch: Batch) -> int | None:
        """Returns to how many rows a batch may be padded, without much more work."""
        first = self.first()
        last_only = self.size is not None or 2 * batch.rows >= first.rows
        return first.rows if last_only and _sizes(batch) == _sizes(first) else None

    def _convert(self, element: Any, row: int) -> Batch:
        return self._converter.convert(element, row, copy=not self._source.stable)


def _sizes(batch: Batch) -> list[tuple[int, ...]]:
    """Returns the sizes of the inputs, without the rows."""
    leaves = keras.tree.flatten(batch.inputs)
    return [leaf.shape[1:] for leaf in leaves if leaf is not None]


def check_ids(ids: Any, rows: int | None) -> Any:
    """Returns an array of ids, or raises unless each row has one."""
    if ids.ndim != 1 or rows not in (None, len(ids)):
        raise DataError(
            "`ids` does not have one integer or string for each row. Expected shape "
            f"({'rows' if rows is None else rows},). Received shape {ids.shape}."
        )
    return ids


def _check_forms(forms: dict[str, str], first: dict[str, str], row: int) -> None:
    for name in {**first, **forms}:
        if forms.get(name) != first.get(name):
            raise DataError(
                f"The batch from row {row} on differs from the first batch in {name}. "
                f"Expected {first.get(name, 'nothing')}. Received "
                f"{forms.get(name, 'nothing')}."
            )
