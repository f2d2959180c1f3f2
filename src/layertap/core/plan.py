"""What a save would take: joins, their branches, aliases, bytes. And its table.

Records only: no model and no Keras is needed to read a plan.
"""

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from layertap.core import address, tables, text
from layertap.errors import AddressError

Shape = tuple[int | None, ...]

# Beyond these, what was read is no shape, and too long a text to be shown.
_MOST_AXES, _MOST_SIZE = 64, 2**62
_LONGEST_TEXT = 10_000


@dataclass(frozen=True)
class Value:
    """One value that the model computes, with one row for each row of data.

    Attributes:
        address: Its name, `fusion/in/0`.
        made_by: The path of the operation, or the name of the model input, that it
            came from.
        shape: As Keras writes it: the row axis first, as None; None for any other
            size that is not known.
        dtype: Its Keras dtype.
        alias_of: The address of the value it equals, if it is not stored itself.
    """

    address: str
    made_by: str
    shape: Shape
    dtype: str
    alias_of: str | None = None

    @property
    def bytes_per_row(self) -> int | None:
        """Bytes that one row takes in memory, or None if a size is not known."""
        sizes = self.shape[1:]
        if None in sizes:
            return None
        return math.prod(n for n in sizes if n is not None) * itemsize(self.dtype)


class Branch(Value):
    """One input of a join."""


class Output(Value):
    """One output of an operation."""


@dataclass(frozen=True)
class Join:
    """An operation that merges several tensors into one.

    Attributes:
        path: Its path.
        kind: `"concatenate"`, `"add"` or another one of `listening.KINDS`.
        axis: The axis along which it joins, never negative; 0 is the row axis. None
            for the kinds that have none.
        shape: The shape of its output.
        dtype: The dtype of its output.
        branches: Its inputs, in their order. Those that can't be had are left out,
            and named in `Plan.refused`.
        whole: Whether `branches` are all that it joins.
    """

    path: str
    kind: str
    axis: int | None
    shape: Shape
    dtype: str
    branches: tuple[Branch, ...]
    whole: bool = True


@dataclass(frozen=True)
class Refused:
    """A value that can't be had, and why."""

    address: str
    reason: str


@dataclass(frozen=True)
class Ignored:
    """A join that is not one of data, and why. Named in `before=`, it is taken."""

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How a value that is not stored is rebuilt from values that are.

    Attributes:
        addresses: One address: the value is that one. Several: it is these, joined.
        axis: Along which axis they are concatenated.
    """

    addresses: tuple[str, ...]
    axis: int = 0


@dataclass(frozen=True)
class Plan:
    """What a save of a model takes. Printed, it is a table.

    Attributes:
        model: The model's name.
        joins: The joins, in the order in which the model runs them.
        outputs: The outputs asked for by `outputs=`.
        refused: What was asked for and can't be had, each with its reason.
        recipes: How each value that is not stored is rebuilt, by its address.
        dtype: The dtype that floating values are stored as; None for their own.
        reduce: How values are reduced before they are stored: a name; None if not.
        narrowed: The dtypes that stored values had before `dtype`, by address.
        padded: The axes along which stored values are padded, by address: their sizes
            are the largest, and the true ones are stored beside.
        ignored: Joins that were heard and are not of data, each with the reason.
        skips: The addresses of those among `outputs` that a head takes, too: values
            of connections that run past the joins.
    """

    model: str
    joins: tuple[Join, ...]
    outputs: tuple[Output, ...] = ()
    refused: tuple[Refused, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    dtype: str | None = None
    reduce: str | None = None
    narrowed: Mapping[str, str] = field(default_factory=dict)
    padded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[Ignored, ...] = ()
    skips: tuple[str, ...] = ()

    @property
    def values(self) -> Iterator[Value]:
        """All planned values, aliases too."""
        for join in self.joins:
            yield from join.branches
        yield from self.outputs

    @property
    def addresses(self) -> list[str]:
        """The addresses of all planned values, aliases too."""
        return [value.address for value in self.values]

    @property
    def stored(self) -> list[Value]:
        """The values that are stored; all others are rebuilt from them."""
        return [value for value in self.values if value.address not in self.recipes]

    @property
    def bytes_per_row(self) -> int | None:
        """Bytes that one row takes in a store, or None if a size is not known."""
        sizes = [value.bytes_per_row for value in self.stored]
        return None if None in sizes else sum(n for n in sizes if n is not None)

    def join(self, path: str) -> Join:
        """Returns the join at a path.

        Raises:
            AddressError: If there is none; the nearest paths are named.
        """
        for join in self.joins:
            if join.path == path:
                return join
        known = [join.path for join in self.joins]
        raise AddressError(
            f"No join {path!r} in the plan of {self.model!r}. "
            + address.suggest(path, known, what="join")
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as data for JSON, with the sizes that follow from it."""
        data = asdict(self)
        for record, join in zip(data["joins"], self.joins, strict=True):
            for entry, branch in zip(record["branches"], join.branches, strict=True):
                entry["bytes_per_row"] = branch.bytes_per_row
        for entry, output in zip(data["outputs"], self.outputs, strict=True):
            entry["bytes_per_row"] = output.bytes_per_row
        return data | {"bytes_per_row": self.bytes_per_row}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Returns the plan that `to_json` gave.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a part is of another type.
            ValueError: If a shape can be none.
        """

        def value(record: Mapping[str, Any]) -> dict[str, Any]:
            alias = record["alias_of"]
            return {
                "address": _text(record["address"]),
                "made_by": _text(record["made_by"]),
                "shape": _shape(record["shape"]),
                "dtype": _dtype(record["dtype"]),
                "alias_of": None if alias is None else _text(alias),
            }

        return cls(
            model=_text(data["model"]),
            joins=tuple(
                Join(
                    path=_text(join["path"]),
                    kind=_text(join["kind"]),
                    axis=None if join["axis"] is None else operator.index(join["axis"]),
                    shape=_shape(join["shape"]),
                    dtype=_dtype(join["dtype"]),
                    branches=tuple(Branch(**value(b)) for b in join["branches"]),
                    whole=bool(join["whole"]),
                )
                for join in data["joins"]
            ),
            outputs=tuple(Output(**value(output)) for output in data["outputs"]),
            refused=tuple(
                Refused(_text(r["address"]), _text(r["reason"]))
                for r in data["refused"]
            ),
            recipes={
                _text(name): Recipe(
                    tuple(map(_text, r["addresses"])), operator.index(r["axis"])
                )
                for name, r in data["recipes"].items()
            },
            # Not in the first stores.
            dtype=None if data.get("dtype") is None else _dtype(data["dtype"]),
            reduce=None if data.get("reduce") is None else _text(data["reduce"]),
            narrowed={
                _text(name): _dtype(dtype)
                for name, dtype in data.get("narrowed", {}).items()
            },
            padded={
                _text(name): tuple(map(operator.index, axes))
                for name, axes in data.get("padded", {}).items()
            },
            ignored=tuple(
                Ignored(_text(r["path"]), _text(r["kind"]), _text(r["reason"]))
                for r in data.get("ignored", ())
            ),
            skips=tuple(map(_text, data.get("skips", ()))),
        )

    def __str__(self) -> str:
        return tables.plain(self.table())

    def __rich__(self) -> Table:
        return self.table()

    def _repr_html_(self) -> str:
        return tables.html(self.table())

    def table(self, rows: int | None = None) -> Table:
        """Returns the plan as a table for `rich` to print.

        Args:
            rows: Rows of data; the last line has the total for them.
        """
        table = tables.titled(f"Plan of {self.model}", self._summary(rows))
        for heading in ("address", "made by"):
            table.add_column(heading, overflow="fold")
        for heading in ("shape", "dtype"):
            table.add_column(heading, no_wrap=True)
        table.add_column("bytes/row", justify="right", no_wrap=True)
        for join in self.joins:
            made_by = join.kind
            if join.axis is not None:
                made_by += f", axis {join.axis}"
            shape = shown(join.shape)
            table.add_row(
                *map(Text, (join.path, made_by, shape, join.dtype)), style="bold"
            )
            for branch in join.branches:
                table.add_row(*_cells(branch, indent="  "))
            table.add_section()
        for output in self.outputs:
            table.add_row(*_cells(output))
        return table

    def _summary(self, rows: int | None) -> Text:
        rows = 1_000_000 if rows is None else rows
        per_row = self.bytes_per_row
        total = None if per_row is None else per_row * rows
        count = len(self.addresses)
        text = Text(
            f"{count} value{'s' * (count != 1)}, {len(self.stored)} of them stored: "
            f"{tables.size(per_row)} per row, {tables.size(total)} for {rows:,} rows."
        )
        if self.reduce is not None:
            text.append(f"\nreduced: {self.reduce}")
        if self.dtype is not None:
            text.append(f"\nfloating numbers stored as {self.dtype}")
        if self.skips:
            text.append(f"\nrun past the joins to the head: {', '.join(self.skips)}")
        if self.padded:
            text.append(f"\n{len(self.padded)} of them padded to the shapes shown")
        if self.ignored:
            count = len(self.ignored)
            text.append(
                f"\n{count} join{'s' * (count != 1)} heard and left out, not of data: "
                'see plan.ignored, or joins="all".',
                style="dim",
            )
        for refused in self.refused:
            text.append(f"\nrefused: {refused.address}: {refused.reason}", style="red")
        return text


def _cells(value: Value, indent: str = "") -> list[Text]:
    name = Text(indent + value.address)
    size = "?" if value.bytes_per_row is None else f"{value.bytes_per_row:,}"
    if value.alias_of is not None:
        name.append(f"\n{indent}= {value.alias_of}", style="dim")
        # Nothing that is stored; so that the column sums up to the total below.
        size = "0"
    return [name, *map(Text, (value.made_by, shown(value.shape), value.dtype, size))]


def shown(shape: Shape) -> str:
    """Returns a shape as a table has it: `(rows, 5, ?)`."""
    rows = ["rows" if shape[:1] == (None,) else str(n) for n in shape[:1]]
    return f"({', '.join([*rows, *('?' if n is None else str(n) for n in shape[1:])])})"


def itemsize(dtype: str) -> int:
    """Returns the bytes of one number of a Keras dtype.

    Raises:
        ValueError: If it is none.
    """
    # Not by NumPy: it takes a text for more than names.
    if dtype not in _ITEMSIZES:
        raise ValueError(f"{dtype[:100]!r} is no dtype of numbers")
    return _ITEMSIZES[dtype]


_ITEMSIZES = {
    **dict.fromkeys(("bool", "int8", "uint8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r} should be a text")
    return text.printable(found[:_LONGEST_TEXT])


def _shape(found: Any) -> Shape:
    shape = tuple(None if size is None else operator.index(size) for size in found)
    sizes = [size for size in shape if size is not None]
    if (
        len(shape) > _MOST_AXES
        or not all(0 <= size <= _MOST_SIZE for size in sizes)
        or math.prod(sizes) > _MOST_SIZE
    ):
        raise ValueError("a shape is negative or too large")
    return shape


def _dtype(found: Any) -> str:
    itemsize(_text(found))
    return _text(found)
