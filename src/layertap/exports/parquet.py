"""Parquet: a column for each value, of lists of one length; in row groups."""

import json
from pathlib import Path
from typing import Any

from layertap.core.optional import require
from layertap.exports.content import NUMBERS, Array, Column, Content

# Bytes of all columns in a row group, at most, unless one row is larger.
_GROUP_BYTES = 2**26


def write(content: Content, path: Path) -> None:
    """Writes a file that pyarrow, pandas, polars and others read."""
    arrow = require("pyarrow", "parquet", "A .parquet export")
    parquet = require("pyarrow.parquet", "parquet", "A .parquet export")
    columns = content.columns(NUMBERS, "Parquet")
    fields = [_field(arrow, column) for column in columns]
    schema = arrow.schema(fields, content.metadata)
    # Lists of numbers: these hardly repeat, and their extremes say little.
    indexed = [column.name for column in columns if not column.shape]
    options = {"use_dictionary": indexed, "write_statistics": indexed}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for piece in content.pieces(columns, _GROUP_BYTES):
            arrays = [
                _array(arrow, field.type, array)
                for field, array in zip(fields, piece, strict=True)
            ]
            table = arrow.Table.from_arrays(arrays, schema=schema)
            writer.write_table(table, row_group_size=max(len(table), 1))


def _field(arrow: Any, column: Column) -> Any:
    """Returns the field of a column: a row is a number or a flat list of them."""
    kind = arrow.string() if column.is_text else arrow.from_numpy_dtype(column.dtype)
    if column.shape:
        kind = arrow.list_(kind, column.size)
    texts = {
        name: fact if isinstance(fact, str) else json.dumps(fact)
        for name, fact in column.facts.items()
    }
    return arrow.field(column.name, kind, nullable=False, metadata=texts)


def _array(arrow: Any, kind: Any, array: Array) -> Any:
    if not arrow.types.is_fixed_size_list(kind):
        return arrow.array(array.tolist() if array.dtype.kind == "U" else array, kind)
    numbers = arrow.array(array.reshape(-1), kind.value_type)
    return arrow.FixedSizeListArray.from_arrays(numbers, type=kind)
