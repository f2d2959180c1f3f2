"""Parquet: a column for each value, of lists of one length; in row groups."""

from pathlib import Path

from layertap.core.optional import require
from layertap.exports.content import NUMBERS, Content
from layertap.results.views import arrow

# Bytes of all columns in a row group, at most, unless one row is larger.
_GROUP_BYTES = 2**26


def write(content: Content, path: Path) -> None:
    """Writes a file that pyarrow, pandas, polars and others read."""
    require("pyarrow", "parquet", "A .parquet export")
    parquet = require("pyarrow.parquet", "parquet", "A .parquet export")
    columns = content.columns(NUMBERS, "Parquet")
    schema = arrow.schema(columns, content.metadata)
    # Lists of numbers: these hardly repeat, and their extremes say little.
    indexed = [column.name for column in columns if not column.shape]
    options = {"use_dictionary": indexed, "write_statistics": indexed}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for piece in content.pieces(columns, _GROUP_BYTES):
            batch = arrow.record_batch(schema, piece)
            writer.write_batch(batch, row_group_size=max(len(batch), 1))
