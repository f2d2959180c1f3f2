"""The plan of a save: records of joins, branches, aliases and bytes; and its table."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from rich.table import Table
from rich.text import Text

from layertap.core import tables, text
from layertap.core.address import Address, parse, suggest
from layertap.errors import AddressError, RefusedError

# Limits of a plan that is read from a store.
_MOST_AXES, _MOST_SIZE = 64, 2**62
_LONGEST_TEXT = 10_000


def itemsize(dtype: str) -> int:
    """Returns the bytes of one number of a Keras dtype."""
    # Not by NumPy, which accepts more than names.
    if dtype not in _ITEMSIZES:
        raise ValueError(f"{dtype[:100]!r} is not a dtype of numbers")
    return _ITEMSIZES[dtype]


_ITEMSIZES = {
    **dict.fromkeys(("bool", "int8", "uint8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


def _check_shape(shape: tuple[int | None, ...]) -> None:
    sizes = [size for size in shape if size is not None]
    if (
        len(shape) > _MOST_AXES
        or not all(0 <= size <= _MOST_SIZE for size in sizes)
        or math.prod(sizes) > _MOST_SIZE
    ):
        raise ValueError("a shape is negative or too large")


Shape = Annotated[tuple[int | None, ...], _check_shape]
Dtype = Annotated[str, itemsize]


@dataclass(frozen=True)
class Value:
    """One value that the model computes, with one row for each row of data.

    Attributes:
        address: Its name, `fusion/in/0`.
        made_by: The path of the operation, or the name of the model input, that it
            came from.
        shape: As in Keras: None for the row axis, which is first, and for unknown
            sizes.
        dtype: Its Keras dtype.
        alias_of: The address of the value it equals, if it is not stored itself.
    """

    address: str
    made_by: str
    shape: Shape
    dtype: Dtype
    alias_of: str | None = None

    @property
    def parts(self) -> Address:
        """The path, the side and the number in its address."""
        return parse(self.address)

    @property
    def bytes_per_row(self) -> int | None:
        """Bytes of one row in memory, or None if a size is unknown."""
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
        kind: `"concatenate"`, `"add"` or another kind: see `layertap.plan`.
        axis: The axis along which it joins, never negative; 0 is the row axis. None
            for kinds without one, and for rows that are folded: see `Plan.folded`.
        shape: The shape of its output.
        dtype: The dtype of its output.
        branches: Its inputs, in their order. `Plan.refused` names those that can't be
            captured.
        whole: Whether `branches` are all of its inputs.
    """

    path: str
    kind: str
    axis: int | None
    shape: Shape
    dtype: Dtype
    branches: tuple[Branch, ...]
    whole: bool = True

    @property
    def addresses(self) -> list[str]:
        """The addresses of its branches."""
        return [branch.address for branch in self.branches]

    @property
    def rebuildable(self) -> bool:
        """Whether its output can be rebuilt from its stored branches."""
        joins = self.kind in ("concatenate", "stack") and self.axis is not None
        return self.whole and joins


@dataclass(frozen=True)
class Refused:
    """A value that can't be captured, and why."""

    address: str
    reason: str


@dataclass(frozen=True)
class Ignored:
    """A join that is left out because it does not join data, and why."""

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How a value that is not stored is rebuilt from stored ones.

    Attributes:
        addresses: One address: the value equals that one. Several: it is their
            concatenation.
        axis: The axis of the concatenation.
    """

    addresses: tuple[str, ...]
    axis: int = 0


@dataclass(frozen=True)
class Plan(tables.Tabular):
    """The values that a save of a model captures. Printed, it is a table.

    Attributes:
        model: The model's name.
        joins: The joins, in the order in which the model runs them.
        outputs: The outputs that `outputs=` selected.
        refused: Requested values that can't be captured, each with its reason.
        recipes: How each value that is not stored is rebuilt, by its address.
        dtype: The dtype that floating values are stored as; None for their own.
        reduce: The name of the reduction of the stored values, or None.
        narrowed: The dtypes that stored values had before `dtype`, by address.
        padded: The axes along which stored values are padded, by address. Their sizes
            are the largest; the store has the true ones, too.
        folded: Values whose rows the model folds into one axis, by address: that axis
            is `a * rows * b` for `(a, b)`. They are stored as `(rows, a * b, …)`.
        ignored: Traced joins that do not join data, each with the reason.
        skips: The addresses of those among `outputs` that run past the joins to the
            head.
        channels_first: The addresses of those pooled values whose channels are the
            first axis after the rows, not the last.
        random: The paths of operations that draw random numbers at inference: the same
            numbers in every batch, whatever ran before.
    """

    model: str
    joins: tuple[Join, ...]
    outputs: tuple[Output, ...] = ()
    refused: tuple[Refused, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    dtype: Dtype | None = None
    reduce: str | None = None
    narrowed: Mapping[str, Dtype] = field(default_factory=dict)
    padded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    folded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[Ignored, ...] = ()
    skips: tuple[str, ...] = ()
    channels_first: tuple[str, ...] = ()
    random: tuple[str, ...] = ()

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
    def missing(self) -> dict[str, str]:
        """The reasons why requested values can't be captured, by address."""
        return {refused.address: refused.reason for refused in self.refused}

    @property
    def stored(self) -> list[Value]:
        """The values that are stored; all others are rebuilt from them."""
        return [value for value in self.values if value.address not in self.recipes]

    @property
    def bytes_per_row(self) -> int | None:
        """Bytes of one row in a store, or None if a size is unknown."""
        sizes = [value.bytes_per_row for value in self.stored]
        return None if None in sizes else sum(n for n in sizes if n is not None)

    def join(self, path: str) -> Join:
        """Returns the join at a path.

        Raises:
            AddressError: If there is no such join; the message has the nearest paths.
        """
        for join in self.joins:
            if join.path == path:
                return join
        raise AddressError(
            f"No join {path!r} in the plan of {self.model!r}. "
            + suggest(path, [join.path for join in self.joins], what="join")
        )

    def check_complete(self, path: str, advice: str) -> None:
        """Raises a `RefusedError` if some branches of a join can't be captured."""
        if self.join(path).whole:
            return
        reasons = [
            f"{name}: {reason}"
            for name, reason in self.missing.items()
            if name.startswith(f"{path}/in/")
        ]
        raise RefusedError(
            f"{path!r} is not complete: some of its branches can't be captured. "
            f"{'; '.join(reasons)}. {advice}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as data for JSON, with the bytes that follow from it."""
        data = asdict(self)
        branches = [branch for join in data["joins"] for branch in join["branches"]]
        records = [*branches, *data["outputs"]]
        for record, value in zip(records, self.values, strict=True):
            record["bytes_per_row"] = value.bytes_per_row
        return data | {"bytes_per_row": self.bytes_per_row}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Returns the plan that `to_json` described.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a part has another type.
            ValueError: If a shape or dtype is impossible.
        """
        # Earlier versions did not save these.
        later = ["dtype", "reduce", "narrowed", "padded", "folded", "ignored", "skips"]
        later += ["channels_first", "random"]
        plan = cls("", ())
        return _decode(cls, {**{name: getattr(plan, name) for name in later}, **data})

    def table(self, rows: int | None = None) -> Table:
        """Returns the plan as a table for `rich` to print.

        Args:
            rows: The number of rows of data; the caption has the total for them.
        """
        table = tables.titled(f"Plan of {self.model}", self._summary(rows))
        tables.add_columns(table, "address", "made by", overflow="fold")
        tables.add_columns(table, "shape", "dtype", no_wrap=True)
        tables.add_columns(table, "bytes/row", justify="right", no_wrap=True)
        for join in self.joins:
            axis = "" if join.axis is None else f", axis {join.axis}"
            cells = (join.path, join.kind + axis, tables.shape(join.shape), join.dtype)
            table.add_row(*map(Text, cells), style="bold")
            for branch in join.branches:
                table.add_row(*_cells(branch, indent="  "))
            table.add_section()
        for output in self.outputs:
            table.add_row(*_cells(output))
        return table

    def _summary(self, rows: int | None) -> Text:
        per_row = self.bytes_per_row
        total = ""
        if rows is not None:
            size = tables.size(None if per_row is None else per_row * rows)
            total = f", {size} for {tables.counted(rows, 'row')}"
        summary = Text(
            f"{tables.counted(len(self.addresses), 'value')}, {len(self.stored)} of "
            f"them stored: {tables.size(per_row)} per row{total}."
        )
        if self.reduce is not None:
            summary.append(f"\nreduced: {self.reduce}")
        if self.dtype is not None:
            summary.append(f"\nfloating numbers stored as {self.dtype}")
        if self.skips:
            summary.append(f"\nrun past the joins to the head: {', '.join(self.skips)}")
        if self.padded:
            summary.append(f"\n{len(self.padded)} of them padded to the shapes shown")
        if self.random:
            paths = ", ".join(self.random)
            summary.append(f"\nrandom numbers, the same in every batch: {paths}")
        if self.ignored:
            joins = tables.counted(len(self.ignored), "join")
            why = 'not joining data: see plan.ignored, or joins="all".'
            summary.append(f"\n{joins} left out, {why}", style="dim")
        for refused in self.refused:
            line = f"\nrefused: {refused.address}: {refused.reason}"
            summary.append(line, style="red")
        return summary


def named_branches(plan: Plan, join: str) -> Iterator[tuple[str, str]]:
    """Yields the maker of each branch of a join, and the branch's address.

    A second branch with the same maker is `name@2`.
    """
    counts: dict[str, int] = {}
    for branch in plan.join(join).branches:
        count = counts[branch.made_by] = counts.get(branch.made_by, 0) + 1
        suffix = f"@{count}" if count > 1 else ""
        yield branch.made_by + suffix, branch.address


def _cells(value: Value, indent: str = "") -> list[Text]:
    name = Text(indent + value.address)
    size = "?" if value.bytes_per_row is None else f"{value.bytes_per_row:,}"
    if value.alias_of is not None:
        name.append(f"\n{indent}= {value.alias_of}", style="dim")
        # Not stored, and so not in the total below.
        size = "0"
    facts = (value.made_by, tables.shape(value.shape), value.dtype, size)
    return [name, *map(Text, facts)]


_hints_of = cache(partial(get_type_hints, include_extras=True))


def _decode(kind: Any, data: Any) -> Any:
    """Returns data as its annotated type, or raises KeyError, TypeError or ValueError.

    A type is a dataclass, a text, a number, a truth value, or one of these with None,
    in a tuple or in a mapping. `Annotated` adds a function that refuses values.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints_of(kind)
        return kind(**{name: _decode(hints[name], data[name]) for name in hints})
    form, parts = get_origin(kind), get_args(kind)
    if form is Annotated:
        inner, check = parts
        decoded = _decode(inner, data)
        check(decoded)
        return decoded
    if form in (Union, UnionType):
        return None if data is None else _decode(parts[0], data)
    if form is tuple and isinstance(data, list | tuple):
        return tuple(_decode(parts[0], entry) for entry in data)
    if form is Mapping and isinstance(data, Mapping):
        name, value = parts
        return {_decode(name, key): _decode(value, data[key]) for key in data}
    if type(data) is not kind:
        raise TypeError(f"{data!r} should be of type {kind}")
    if kind is str:
        # In tables, a text is one line.
        return text.printable(data[:_LONGEST_TEXT]).replace("\n", " ")
    return data
