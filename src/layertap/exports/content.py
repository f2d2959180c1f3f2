"""The content of an export: columns of rows, read in pieces of bounded size."""

import importlib.metadata
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.address import IDS, LENGTHS, match
from layertap.core.progress import Progress
from layertap.core.values import length_columns
from layertap.errors import OptionError
from layertap.results.saved import Saved
from layertap.store.storage.ahead import map_ahead

# The dtypes that every format has.
NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "float16", "float32", "float64"),
)

# Bytes of rows that are read at a time; up to three such pieces are in memory.
PIECE_BYTES = 2**24

Array = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """A value, or an array that came with the data: one row for each row.

    `facts` are those about a value that its numbers do not show; any other column has
    none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice], Array]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many numbers, or texts, a row has."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row in memory; of texts at most."""
        return self.size * self.dtype.itemsize

    @property
    def is_text(self) -> bool:
        """Whether it has texts, not numbers."""
        return self.dtype.kind == "U"


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
        self._values = list(_values(saved, self.names))
        self._others = list(_others(saved, self.names))
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
            if column.dtype.name == "bfloat16" and "bfloat16" not in dtypes:
                column = replace(
                    column, dtype=np.dtype("float32"), read=_Widened(column.read)
                )
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


class _Widened:
    """Reads numbers of bfloat16 as float32, to the bit, NaN too."""

    def __init__(self, read: Callable[[slice], Array]) -> None:
        self._read = read

    def __call__(self, rows: slice) -> Array:
        return (self._read(rows).view(np.uint16).astype(np.uint32) << 16).view("f4")


def _values(saved: Saved, names: Sequence[str]) -> Iterator[Column]:
    """Yields the columns of values."""
    planned = (*saved.plan.values, *saved.plan.derived)
    made_by = {value.address: value.made_by for value in planned}
    for name in names:
        array = saved[name]
        shape, dtype = array.shape[1:], array.dtype
        facts = {"made_by": made_by[name], "dtype": dtype.name, "shape": list(shape)}
        yield Column(name, shape, dtype, array.__getitem__, facts)


def _others(saved: Saved, names: Sequence[str]) -> Iterator[Column]:
    """Yields the ids, labels, weights, and the true sizes of padded values."""
    if saved.identity[IDS] is not None:
        ids = saved.reader.array(IDS)
        # A text has at most as many characters as bytes.
        text = saved.identity[IDS] == "text"
        dtype = np.dtype(f"U{ids.shape[1]}") if text else ids.dtype
        yield Column(IDS, (), dtype, saved.ids_of)
    for array in tree.leaves([saved.labels, saved.sample_weight]):
        yield Column(array.path, array.shape[1:], array.dtype, array.__getitem__)
    for name in names:
        try:
            index = length_columns(saved.plan, name)
        except OptionError:
            continue
        lengths = saved.reader.array(LENGTHS)
        shape = np.empty(lengths.shape[1:], bool)[index].shape
        read = _Indexed(lengths.__getitem__, index)
        yield Column(f"{LENGTHS}/{name}", shape, lengths.dtype, read)


@dataclass(frozen=True)
class _Indexed:
    """Reads some columns of an array."""

    read: Callable[[slice], Array]
    index: int | slice

    def __call__(self, rows: slice) -> Array:
        return self.read(rows)[:, self.index]
