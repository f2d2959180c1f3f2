"""The columns of saved values, as other libraries and formats get them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.address import IDS, LENGTHS
from layertap.core.values import length_columns
from layertap.errors import OptionError
from layertap.results.saved_rows import SavedRows

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

    def widened(self) -> "Column":
        """Returns the column in float32 if it is in bfloat16, which few libraries have.

        float32 has each number of bfloat16.
        """
        if self.dtype.name != "bfloat16":
            return self
        return replace(self, dtype=np.dtype("float32"), read=_Widened(self.read))


class _Widened:
    """Reads numbers of bfloat16 as float32, to the bit, NaN too."""

    def __init__(self, read: Callable[[slice], Array]) -> None:
        self._read = read

    def __call__(self, rows: slice) -> Array:
        return (self._read(rows).view(np.uint16).astype(np.uint32) << 16).view("f4")


def value_columns(saved: SavedRows, names: Sequence[str]) -> Iterator[Column]:
    """Yields the columns of values."""
    planned = (*saved.plan.values, *saved.plan.derived)
    made_by = {value.address: value.made_by for value in planned}
    for name in names:
        array = saved[name]
        shape, dtype = array.shape[1:], array.dtype
        facts = {"made_by": made_by[name], "dtype": dtype.name, "shape": list(shape)}
        yield Column(name, shape, dtype, array.__getitem__, facts)


def other_columns(saved: SavedRows, names: Sequence[str]) -> Iterator[Column]:
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
