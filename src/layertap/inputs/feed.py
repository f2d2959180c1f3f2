"""Any data that `model.predict` takes, as batches of what the model takes."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from layertap.errors import DataError
from layertap.inputs.convert import arrange, array_of, rows_of
from layertap.inputs.elements import leaf_name, unpack
from layertap.inputs.indexed_batches import IndexedBatches
from layertap.inputs.sources import (
    Arrays,
    Stream,
    check_no_size,
    check_no_stream,
    is_numbered,
    source,
)


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows of a data set.

    Attributes:
        row: The number of its first row in the data set.
        rows: How many rows it has.
        inputs: What `model(x)` takes: a NumPy array, or a structure of them.
        labels: The labels, likewise, or None.
        sample_weight: The weights of the samples, likewise, or None.
    """

    row: int
    rows: int
    inputs: Any
    labels: Any = None
    sample_weight: Any = None

    def parts(self, size: int | None) -> "Iterator[Batch]":
        """Yields the same rows in batches of a size; None leaves them as they are."""
        if size is None or self.rows <= size:
            yield self
            return
        structures = (self.inputs, self.labels, self.sample_weight)
        for start in range(0, self.rows, size):
            cut = operator.itemgetter(slice(start, start + size))
            yield Batch(
                self.row + start,
                min(size, self.rows - start),
                *(
                    s if s is None else keras.tree.map_structure(cut, s)
                    for s in structures
                ),
            )


class Feed:
    """Data as batches, always cut at the same rows.

    Args:
        data: Arrays (NumPy, a backend's, pandas, anything that can be sliced), lists or
            dictionaries of them, a `tf.data.Dataset`, a torch `DataLoader`, a
            `keras.utils.PyDataset`, or any iterable of batches. A tuple is `(x, y)` or
            `(x, y, sample_weight)`, unless it is just what a model of several inputs
            takes. A list is several inputs; from a `DataLoader` or a `PyDataset` it
            is what a tuple is, as in Keras.
        specs: The structure of `InputSpec` that the model takes, or None if it has
            none.
        batch_size: Rows per batch of arrays; 32 by default.
        anywhere: Whether batches are to be had from any row on without those before
            them. Streams are refused then, and a `PyDataset` has batches of one size.

    Attributes:
        rows: How many rows there are, or None where only the end will tell.
        batch_size: Rows per batch, or None where the data bring their own batches.
        size: Rows that every batch has but the last, whoever cut them, or None where
            the batches are of any size.
        again: Whether the data can be read more than once.

    Raises:
        DataError: If the data don't fit the model.
        DataTypeError: If they are no data, or of a type that the model can't take.
        OptionError: If `batch_size` is given with data that bring their own batches.
    """

    def __init__(
        self,
        data: Any,
        specs: Any = None,
        batch_size: int | None = None,
        *,
        anywhere: bool = False,
    ) -> None:
        self._specs = specs
        self._source = (
            _from_anywhere(data, specs, batch_size)
            if anywhere
            else source(data, specs, batch_size)
        )
        self.rows = self._source.rows
        self.batch_size = self._source.batch_size
        self.size = self._source.size
        self.again = not isinstance(data, Iterator)
        self._first: Batch | None = None

    def first(self) -> Batch:
        """Returns the first batch. A one-shot iterator loses nothing by it.

        Raises:
            DataError: If there is none.
        """
        if self._first is None:
            for element in self._source.peek():
                self._first = next(self._batch(0, element).parts(self.batch_size))
                break
            else:
                raise DataError(
                    "The data are empty: not one row came. If they are an iterator, it "
                    "was used up before; make a new one."
                )
        return self._first

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yields the batches, from the one that holds the row `start`.

        They are cut as in a run from row 0. Arrays are sliced there; other data are
        read from their beginning, unless they can be read from anywhere. The last
        batch is the one that holds the row before `stop`, and nothing after it is
        read; None is the end of the data.

        Raises:
            DataError: If a batch does not fit the model, or the first batch, or if an
                iterator was used up before.
        """
        first = _forms(self.first())
        for row, element in self._source.elements(start, stop):
            batch = self._batch(row, element)
            _check_form(_forms(batch), first, row)
            for part in batch.parts(self.batch_size):
                if stop is not None and part.row >= stop:
                    return
                yield part

    def _batch(self, row: int, element: Any) -> Batch:
        x, y, weight = unpack(element, self._specs)
        inputs = arrange(x, self._specs, row)
        rows = rows_of(inputs, "inputs", row)
        others = []
        for name, structure in (("labels", y), ("sample weights", weight)):
            if structure is not None:
                structure = keras.tree.map_structure(array_of, structure)
                found = rows_of(structure, name, row)
                if found != rows:
                    raise DataError(
                        f"From row {row} on there are {rows} rows of inputs, but "
                        f"{found} of {name}; there has to be one for each row."
                    )
            others.append(structure)
        if not self._source.stable:
            inputs, *others = _owned([inputs, *others], element)
        return Batch(row, rows, inputs, *others)


def _from_anywhere(
    data: Any, specs: Any, batch_size: int | None
) -> Arrays | Stream | IndexedBatches:
    check_no_stream(data)
    if not is_numbered(data):
        return source(data, specs, batch_size)
    check_no_size(data, batch_size)
    return IndexedBatches(data, specs)


def _owned(structures: list[Any], given: Any) -> list[Any]:
    """Copies the arrays that share memory with what was given."""
    leaves = keras.tree.flatten(given)
    theirs = {id(leaf) for leaf in leaves}
    # What else makes an array of itself may give one that it will write to.
    plain = all(
        leaf is None
        or isinstance(leaf, np.ndarray | int | float)
        or type(leaf).__module__.startswith(("tensorflow", "jax", "torch"))
        for leaf in leaves
    )

    def own(leaf: Any) -> Any:
        shared = leaf is not None and (
            not plain or leaf.base is not None or id(leaf) in theirs
        )
        return leaf.copy() if shared else leaf

    return [keras.tree.map_structure(own, structure) for structure in structures]


def _forms(batch: Batch) -> dict[str, str]:
    """Says of each array of a batch what has to be the same in all batches."""
    forms = {}
    for what in ("inputs", "labels", "sample_weight"):
        for path, leaf in keras.tree.flatten_with_path(getattr(batch, what)):
            if leaf is not None:
                # Inputs may change their sizes, where the model lets them.
                sizes = leaf.shape[1:] if what != "inputs" else "?" * (leaf.ndim - 1)
                dtype = "text" if leaf.dtype.kind in "SU" else leaf.dtype.name
                shape = ", ".join(["rows", *map(str, sizes)])
                forms[leaf_name(what, path)] = f"{dtype} of shape ({shape})"
    return forms


def _check_form(found: dict[str, str], first: dict[str, str], row: int) -> None:
    for name in {**first, **found}:
        if found.get(name) != first.get(name):
            raise DataError(
                f"The batch that begins at row {row} has {name}: "
                f"{found.get(name, 'none')}. The first batch has "
                f"{first.get(name, 'none')}; all have to be alike."
            )
