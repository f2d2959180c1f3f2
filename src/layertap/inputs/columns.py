"""Columns of any table: inputs of a model, labels, sample weights, ids, or not used."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.core.address import IDS, LABELS, SAMPLE_WEIGHT, suggest
from layertap.core.optional import require
from layertap.errors import DataError, DataTypeError, OptionError
from layertap.inputs.lazy_array import (
    FromFiles,
    LazyRows,
    Versions,
    file_versions,
    reporting,
)
from layertap.inputs.parquet import numpy_array


class Table(dict[str, Any], FromFiles):
    """Columns of a file, by name. Some may not be inputs of any model."""

    # Whether the only column may have another name than the only input.
    any_name = False
    # The file that all columns were read from at once.
    file: str | None = None

    def columns(self) -> list[Any]:
        """Returns the columns, or the table where these are parts of one file."""
        return [*self.values()] if self.file is None else [self]

    def versions(self) -> Versions:
        """See `FromFiles`."""
        return file_versions([] if self.file is None else [self.file])


class Frame(Table):
    """Columns of a data frame. Next to each other, they can be one input."""


class Parts(NamedTuple):
    """What data hold for the same rows: inputs, and parts that are saved along."""

    inputs: Any
    labels: Any = None
    sample_weight: Any = None
    ids: Any = None


class Columns:
    """Finds a use for each column: the names of inputs, `labels` and so on, or chosen.

    Args:
        inputs: The names of a model's inputs, none for a model without a graph.
        labels: The column of the labels, or None.
        ids: The column of the ids, or None. Or ids, and no column is needed.
    """

    def __init__(self, inputs: Collection[str], labels: Any, ids: Any) -> None:
        if not isinstance(labels, str | None):
            raise OptionError(
                "`labels` is invalid. Expected the name of a column. Received "
                f"{type(labels).__name__}. Pass labels with the data: (x, labels)."
            )
        self._inputs = inputs
        self._chosen = {LABELS: labels, SAMPLE_WEIGHT: None, IDS: ids}
        self.unused: dict[str, None] = {}

    def split(self, columns: Mapping[Any, Any], *others: Any) -> Parts:
        """Splits columns; `others` are labels and sample weights apart from them."""
        rest = dict(columns)
        parts = Parts(None, *others)._asdict()
        # Without a graph, a model may use a column of any name.
        free = bool(self._inputs) or isinstance(columns, Table)
        for use, chosen in self._chosen.items():
            if isinstance(chosen, str):
                parts[use] = self._choose(use, columns, parts[use])
                if chosen not in self._inputs:
                    rest.pop(chosen, None)
            elif chosen is parts[use] is None and free and use not in self._inputs:
                parts[use] = rest.pop(use, None)
        if not rest:
            raise DataError(
                "The data hold no input of the model. Received "
                f"{', '.join(map(repr, columns)) or 'no columns'}."
            )
        parts["inputs"] = self._inputs_of(rest, columns)
        return Parts(**parts)

    def check_no_names(self, data: Any) -> None:
        """Raises if a column is chosen: these data have none."""
        for use, chosen in self._chosen.items():
            if isinstance(chosen, str):
                raise OptionError(
                    f"`{use}` names the column {chosen!r}, but the data have no "
                    "columns. Expected a dictionary of arrays, or a file of several. "
                    f"Received {type(data).__name__}."
                )

    def _choose(self, use: str, columns: Mapping[Any, Any], other: Any) -> Any:
        name: str = self._chosen[use]
        if other is not None:
            raise OptionError(
                f"`{use}` names the column {name!r}, but the data are a tuple with "
                f"{use} of its own. Pass one of them."
            )
        if name not in columns:
            raise DataError(
                f"The data have no column {name!r} for `{use}`. "
                + suggest(name, map(str, columns), what="column")
            )
        return columns[name]

    def _inputs_of(self, rest: dict[Any, Any], columns: Mapping[Any, Any]) -> Any:
        only = len(rest) == 1 and isinstance(columns, Table)
        one = len(self._inputs) < 2 and set(rest).isdisjoint(self._inputs)
        if one and isinstance(columns, Frame):
            return _side_by_side(rest)
        any_name = getattr(columns, "any_name", False) and len(self._inputs) == 1
        if only and (not self._inputs or any_name):
            return next(iter(rest.values()))
        if not self._inputs:
            return rest
        names = [str(name) for name in rest if name not in self._inputs]
        self.unused |= dict.fromkeys(names)
        return {name: find_input(rest, name) for name in self._inputs}


def find_input(columns: Mapping[Any, Any], name: str) -> Any:
    """Returns the column of an input of the model."""
    if name in columns:
        return columns[name]
    raise DataError(
        f"The model's input {name!r} is not in the data. Received "
        f"{', '.join(map(repr, columns))}. "
        + suggest(name, map(str, columns), what="name in the data")
    )


def _side_by_side(columns: Mapping[str, Any]) -> Any:
    """Returns columns of numbers as one array, as Keras does for a data frame."""
    if len(columns) == 1 and len((only := next(iter(columns.values()))).shape) > 1:
        return only
    for name, array in columns.items():
        if len(array.shape) != 1 or array.dtype.kind not in "biuf":
            raise DataError(
                f"Column {name!r} can't be part of the model's only input. Expected "
                f"one number in each row. Received {array.dtype} of shape "
                f"{('rows', *array.shape[1:])}. Drop it, or name it as the labels or "
                "ids."
            )
    return np.stack([np.asarray(column) for column in columns.values()], axis=1)


class HuggingFaceColumn(LazyRows):
    """A column of a `datasets.Dataset`, read when it is sliced.

    Args:
        dataset: The data set.
        name: The column.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset = dataset.select_columns([name])
        self._name = name
        first = self.read(0, min(1, len(dataset)))
        self.shape, self.dtype = (len(dataset), *first.shape[1:]), first.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Reads rows, and decodes their images and sounds."""
        problem = f"Column {self._name!r}, rows {start} to {stop - 1}, can't be read"
        with reporting(problem, Exception):
            stored = self._dataset.with_format("arrow")[start:stop].column(self._name)
            # Images and sounds are stored as files. NumPy has NaN for missing values.
            types = require("pyarrow.types", "parquet", "A datasets.Dataset")
            if stored.null_count or not types.is_struct(stored.type):
                return numpy_array(stored)
            array = np.asarray(
                self._dataset.with_format("numpy")[start:stop][self._name]
            )
        if array.dtype == object and any(isinstance(row, np.ndarray) for row in array):
            raise DataError(
                f"Column {self._name!r} has rows of different shapes from row {start} "
                f"to row {stop - 1}. Expected one shape. Resize or pad them first."
            )
        return array


class UnreadableColumn(LazyRows):
    """A column that can't be converted, which is an error only if it is used."""

    def __init__(self, rows: int, problem: DataError) -> None:
        self.shape, self.dtype = (rows,), np.dtype(object)
        self._problem = problem

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Raises the error."""
        raise self._problem


# Data that have to be turned into a table first.
_NOT_YET = {
    "datasets.dataset_dict.DatasetDict": 'Pass one of its parts: data["train"].',
    "polars.lazyframe.frame.LazyFrame": "Pass data.collect().",
}


def as_table(data: Any) -> Any:
    """Returns the columns of a table by name; other data stay as they are."""
    if isinstance(data, np.ndarray) and data.dtype.names:
        return Frame({name: data[name] for name in data.dtype.names})
    # By name: the libraries are not imported, and a user's module may be `datasets`.
    kinds = {f"{base.__module__}.{base.__name__}" for base in type(data).__mro__}
    if kinds & {"pandas.DataFrame", "pandas.core.frame.DataFrame"}:
        _check_names(data.columns)
        return Frame({str(name): data[name].to_numpy() for name in data.columns})
    if "datasets.arrow_dataset.Dataset" in kinds:
        names = data.column_names
        return Frame({name: HuggingFaceColumn(data, name) for name in names})
    for kind, advice in _NOT_YET.items():
        if kind in kinds:
            name = type(data).__name__
            raise DataTypeError(f"A {name} is not one table of rows. {advice}")
    if not hasattr(data, "__arrow_c_stream__") or not hasattr(data, "columns"):
        return data
    # Whatever has Arrow's protocol: polars, pyarrow, DuckDB.
    table = require("pyarrow", "parquet", f"A {type(data).__name__}").table(data)
    _check_names(table.column_names)
    return Frame({name: _arrow_column(table, name) for name in table.column_names})


def _check_names(names: Iterable[Any]) -> None:
    """Raises if columns have one name, as text."""
    for name, count in Counter(map(str, names)).items():
        if count > 1:
            raise DataError(
                f"The data have {count} columns {name!r}. Expected one of each name. "
                "Rename them."
            )


def _arrow_column(table: Any, name: str) -> Any:
    """Returns a column of a table of Arrow as an array of NumPy."""
    try:
        with reporting(f"Column {name!r} can't be read", Exception):
            return numpy_array(table.column(name))
    except DataError as error:
        return UnreadableColumn(len(table), error)
