"""Safetensors: a tensor for each value, bfloat16 too; written without the library.

The library has no way to write a file piece by piece. The format is a header in JSON
that says where each tensor begins and ends, and then their bytes.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from layertap.core.address import IDS
from layertap.exports.content import Content, raw
from layertap.results.views.columns import Column

_DTYPES = {
    **{"bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64"},
    **{"uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64"},
    **{"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"},
    "complex64": "C64",
}


def write(content: Content, path: Path) -> None:
    """Writes a file that the library `safetensors` reads."""
    columns = content.columns(_DTYPES, "safetensors")
    columns = [_encoded(content, c) if c.is_text else c for c in columns]
    # As the library does, so that each tensor is aligned in memory.
    columns.sort(key=lambda column: -column.dtype.itemsize)
    metadata = content.metadata
    if any(column.name == IDS and column.shape for column in columns):
        metadata["ids"] = "UTF-8, padded with zero bytes"
    with path.open("wb") as file:
        file.write(_header(columns, content.rows, metadata))
        for column in columns:
            for (array,) in content.pieces([column]):
                file.write(raw(array))


def _encoded(content: Content, column: Column) -> Column:
    """Returns the ids as bytes: the format has no texts."""
    ids = content.saved.reader.array(IDS)
    return replace(
        column, dtype=np.dtype("uint8"), shape=ids.shape[1:], read=ids.__getitem__
    )


def _header(columns: list[Column], rows: int, metadata: dict[str, str]) -> bytes:
    """Returns the length of the header and the header, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for column in columns:
        start, end = end, end + rows * column.row_bytes
        header[column.name] = {
            "dtype": _DTYPES[column.dtype.name],
            "shape": [rows, *column.shape],
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
