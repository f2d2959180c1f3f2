"""Saved values as record batches of Arrow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layertap.core.optional import require
from layertap.errors import OptionError
from layertap.results.saved_rows import SavedRows
from layertap.results.views.columns import Array, Column, other_columns, value_columns

# Bytes of the columns of one batch, unless one row is larger.
_BATCH_BYTES = 2**24


def reader(saved: SavedRows) -> Any:
    """Returns a reader of all rows; see `Saved.to_arrow`."""
    arrow = require("pyarrow", "parquet", "`Saved.to_arrow`")
    names = list(saved.plan.known)
    columns = [*value_columns(saved, names), *other_columns(saved, names)]
    columns = [column.widened() for column in columns]
    for column in columns:
        if column.dtype.kind == "c":
            raise OptionError(
                f"{column.name} has complex numbers, which Arrow lacks. Read it as "
                f"saved[{column.name!r}]."
            )
    table = schema(columns, {"model": saved.plan.model})
    row_bytes = sum(column.row_bytes for column in columns)
    size = max(_BATCH_BYTES // max(row_bytes, 1), 1)

    def batches() -> Iterator[Any]:
        for start in range(0, saved.rows, size):
            rows = slice(start, min(start + size, saved.rows))
            yield record_batch(table, [column.read(rows) for column in columns])

    return arrow.RecordBatchReader.from_batches(table, batches())


def schema(columns: Sequence[Column], metadata: Mapping[str, str]) -> Any:
    """Returns the schema of columns: a row is a number, a text or a flat list."""
    arrow = require("pyarrow", "parquet", "Arrow")
    return arrow.schema([_field(arrow, column) for column in columns], metadata)


def _field(arrow: Any, column: Column) -> Any:
    kind = arrow.string() if column.is_text else arrow.from_numpy_dtype(column.dtype)
    if column.shape:
        kind = arrow.list_(kind, column.size)
    texts = {
        name: fact if isinstance(fact, str) else json.dumps(fact)
        for name, fact in column.facts.items()
    }
    return arrow.field(column.name, kind, nullable=False, metadata=texts)


def record_batch(schema: Any, arrays: Sequence[Array]) -> Any:
    """Returns the rows of all columns as one record batch."""
    arrow = require("pyarrow", "parquet", "Arrow")
    columns = [
        _array(arrow, field.type, array)
        for field, array in zip(schema, arrays, strict=True)
    ]
    return arrow.RecordBatch.from_arrays(columns, schema=schema)


def _array(arrow: Any, kind: Any, array: Array) -> Any:
    if not arrow.types.is_fixed_size_list(kind):
        return arrow.array(array.tolist() if array.dtype.kind == "U" else array, kind)
    numbers = arrow.array(array.reshape(-1), kind.value_type)
    return arrow.FixedSizeListArray.from_arrays(numbers, type=kind)
