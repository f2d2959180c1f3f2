"""The content of an export: columns of rows, read in pieces of bounded size."""

import importlib.metadata
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.address import match
from layertap.core.progress import Progress
from layertap.errors import OptionError
from layertap.results.saved import Saved
from layertap.results.views.columns import Column, other_columns, value_columns
from layertap.store.storage.ahead import map_ahead

# The dtypes that every format has.
NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "float16", "float32", "float64"),
)

# Bytes of rows that are read at a time; up to three such pieces are in memory.
PIECE_BYTES = 2**24

Array = NDArray[Any]


class Content:
    """The columns of an export, and metadata as texts.

    Args:
        saved: The values.
        globs: Patterns of addresses; none for all.
        display: Shows how many rows are done.
    """

    def __init__(self, saved: Saved, globs: Sequence[str], display: Progress) -> None:
        known = saved.plan.known
        self.names = match(globs, known, what="address") if globs else known
        self.saved, self.rows = saved, saved.rows
        self._display, self._done = display, 0
        self._values = list(value_columns(saved, self.names))
        self._others = list(other_columns(saved, self.names))
        row_bytes = sum(c.row_bytes for c in (*self._values, *self._others))
        self._bytes = row_bytes * self.rows

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the file; whatever is not a text is JSON."""
        facts = {
            "rows": self.rows,
            "complete": self.saved.complete,
            "class_names": self.saved.class_names,
            "values": {column.name: column.facts for column in self._values},
        }
        version = importlib.metadata.version("layertap")
        texts = {"layertap": version, "model": self.saved.plan.model}
        return texts | {name: json.dumps(fact) for name, fact in facts.items()}

    def columns(self, dtypes: Collection[str], form: str) -> list[Column]:
        """Returns the columns, those of values first, in dtypes that a format has.

        Numbers in bfloat16 become float32, which has them all, unless the format has
        bfloat16. Any other dtype that the format lacks raises an OptionError.
        """
        columns = []
        for column in (*self._values, *self._others):
            if "bfloat16" not in dtypes:
                column = column.widened()
            if not column.is_text and column.dtype.name not in dtypes:
                raise OptionError(
                    f"{column.name} can't be exported to {form}. Expected real "
                    f"numbers. Received {column.dtype.name}. Export it to .h5 or .npz, "
                    "or select other values: addresses=…"
                )
            columns.append(column)
        return columns

    def pieces(
        self, columns: Sequence[Column], most: int = PIECE_BYTES
    ) -> Iterator[list[Array]]:
        """Yields all rows of some columns, so many bytes at a time, or one row."""
        row_bytes = sum(column.row_bytes for column in columns)
        # Mostly complete chunks: these have a power of two of rows.
        count = 1 << (max(most // row_bytes, 1).bit_length() - 1)

        def read(start: int) -> list[Array]:
            rows = slice(start, min(start + count, self.rows))
            return [column.read(rows) for column in columns]

        starts = range(0, self.rows, count)
        with closing(map_ahead(read, starts, threads=1, most=1)) as pieces:
            for start, piece in zip(starts, pieces, strict=True):
                yield piece
                self._done += row_bytes * min(count, self.rows - start)
                self.show_progress()

    def show_progress(self, *, complete: bool = False) -> None:
        """Shows how many rows are done; where columns come one by one, their share."""
        done = self._bytes if complete else min(self._done, self._bytes)
        rows = self.rows * done // max(self._bytes, 1)
        title = f"exporting {len(self.names)} values"
        self._display.report(title, self.rows, rows, done)


def raw(array: Array) -> memoryview:
    """Returns the bytes of an array, row after row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
