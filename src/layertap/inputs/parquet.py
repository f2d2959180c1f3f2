"""Columns of Parquet files as arrays of rows, read when they are sliced."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.core.lru import LRU
from layertap.core.optional import require
from layertap.errors import DataError
from layertap.inputs.lazy_array import LazyRows

SUFFIX = ".parquet"
# Row groups of a column: rows may begin in one and end in the next.
_CACHED = 2


class _Group(NamedTuple):
    """One row group of one file."""

    file: Path
    metadata: Any
    number: int
    row: int
    rows: int

    def __str__(self) -> str:
        return f"row group {self.number} of {self.file}"


class ParquetColumn(LazyRows):
    """A column of one or more files, one row after the other.

    Numbers are an array of one axis, lists that are all of one length (lists of lists,
    tensors) one of more. Texts and other things are Python's objects. The row groups
    that were used last are kept.

    Args:
        name: The column.
        groups: The row groups of all files, those without rows left out.

    Raises:
        DataError: When it is read, if a value is missing, or lengths or types differ.
    """

    def __init__(self, name: str, groups: Sequence[_Group]) -> None:
        self.name = name
        self._groups = groups
        self._cached: LRU[int, NDArray[Any]] = LRU(_CACHED)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, rows first."""
        rows = self._groups[-1].row + self._groups[-1].rows if self._groups else 0
        return (rows, *self._first[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        return self._first[1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Returns rows; only the row groups that have some of them are read."""
        parts = [
            self._group(i)[max(start - group.row, 0) : stop - group.row]
            for i, group in enumerate(self._groups)
            if group.row < stop and start < group.row + group.rows
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def _first(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if not self._groups:
            return (), np.dtype("float32")
        first = self._read(self._groups[0])
        return first.shape[1:], first.dtype

    def _group(self, i: int) -> NDArray[Any]:
        found = self._cached.get(i)
        if found is None:
            found = self._read(self._groups[i])
            if (found.shape[1:], found.dtype) != self._first:
                row_shape, dtype = self._first
                raise DataError(
                    f"Column {self.name!r} has {found.dtype} of shape "
                    f"{('rows', *found.shape[1:])} in {self._groups[i]}, and {dtype} "
                    f"of shape {('rows', *row_shape)} in {self._groups[0]}."
                )
            self._cached.put(i, found)
        return found

    def _read(self, group: _Group) -> NDArray[Any]:
        arrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(group.file, metadata=group.metadata) as file:
                table = file.read_row_group(group.number, columns=[self.name])
            found = np.concatenate(
                [_array(chunk) for chunk in table.column(self.name).chunks]
            )
        except DataError as error:
            raise DataError(f"Column {self.name!r}, {group}: {error}") from error
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"Column {self.name!r}, {group}, can't be read: {error}"
            ) from error
        shape = _tensor_shape(table.schema.field(self.name))
        return found if shape is None else found.reshape(len(found), *shape)


def parquet_files(folder: Path) -> list[Path]:
    """Returns the Parquet files below a folder, in the order of their paths.

    Hidden files and folders are left out, and those that begin with `_`, which other
    programs write beside their data.
    """
    found = [file.relative_to(folder) for file in folder.rglob(f"*{SUFFIX}")]
    return [
        folder / file
        for file in sorted(found, key=Path.as_posix)
        if not any(part.startswith((".", "_")) for part in file.parts)
        and (folder / file).is_file()
    ]


def read_parquet(files: Sequence[Path]) -> dict[str, ParquetColumn]:
    """Opens files with the same columns, and returns those by name.

    Args:
        files: The files, in the order of their rows.

    Raises:
        DataError: If one can't be read, or has other columns than the first.
        BackendMissingError: If PyArrow is not installed.
    """
    arrow, parquet = _pyarrow()
    groups: list[_Group] = []
    names: list[str] = []
    row = 0
    for file in files:
        try:
            metadata = parquet.read_metadata(file)
            found = metadata.schema.to_arrow_schema().names
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{file} is no Parquet file that can be read: {error}"
            ) from error
        names = names or found
        if found != names:
            raise DataError(
                f"{file} has the columns {', '.join(found)}; {files[0]} has "
                f"{', '.join(names)}. All files of a folder need the same ones."
            )
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            if rows:
                groups.append(_Group(file, metadata, number, row, rows))
            row += rows
    return {name: ParquetColumn(name, groups) for name in names}


def _array(values: Any) -> NDArray[Any]:
    """Returns an array of Arrow's as one of NumPy's."""
    arrow, _ = _pyarrow()
    types = arrow.types
    if isinstance(values.type, arrow.FixedShapeTensorType):
        values = values if not values.null_count else values.storage
    if hasattr(values, "to_numpy_ndarray"):
        return np.asarray(values.to_numpy_ndarray())
    if isinstance(values.type, arrow.BaseExtensionType):
        values = values.storage
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.null_count:
        raise DataError(f"{values.null_count} values are missing; fill them in.")
    if types.is_fixed_size_list(values.type):
        return _lists(values, values.type.list_size)
    if types.is_list(values.type) or types.is_large_list(values.type):
        lengths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) > 1:
            raise DataError(
                f"its lists have from {lengths[0]} to {lengths[-1]} members; make them "
                "of one length."
            )
        return _lists(values, int(lengths[0]))
    if types.is_nested(values.type):
        raise DataError(f"it holds {values.type}, which is no array.")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _lists(values: Any, length: int) -> NDArray[Any]:
    members = _array(values.flatten())
    return members.reshape(len(values), length, *members.shape[1:])


def _tensor_shape(field: Any) -> list[int] | None:
    """Returns the shape of a row, where Ray wrote tensors as lists, or None."""
    if hasattr(field.type, "shape"):
        return list(field.type.shape)
    metadata = field.metadata or {}
    if b"arrow_tensor" not in metadata.get(b"ARROW:extension:name", b""):
        return None
    try:
        shape = json.loads(metadata[b"ARROW:extension:metadata"])
    except (KeyError, ValueError):
        return None
    return shape if isinstance(shape, list) else None


def _pyarrow() -> tuple[Any, Any]:
    parquet = require("pyarrow.parquet", "parquet", "A Parquet file")
    return require("pyarrow", "parquet", "A Parquet file"), parquet
