"""The records of a plan: values, joins, and why others are left out."""

import math
from dataclasses import dataclass
from typing import Annotated

from layertap.core.address import Address, Effect, effect, parse, value_of

# Limits of a plan that is read from a store.
_MOST_AXES, _MOST_SIZE = 64, 2**62


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


class Derived(Value):
    """The gradient or the attribution of a value, of its shape."""

    @property
    def value(self) -> str:
        """The address of that value."""
        return value_of(self.address)

    @property
    def kind(self) -> Effect:
        """Whether it is a gradient or an attribution."""
        gradient = self.address == effect(self.value, "gradient")
        return "gradient" if gradient else "attribution"


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


def described(target: str) -> str:
    """Returns the name of a target in words.

    Example:
    >>> described("loss"), described("3"), described("package.module.function")
    ('the loss', 'output 3', 'package.module.function')
    """
    if target == "loss":
        return "the loss"
    return f"output {target}" if target.isdecimal() else target


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
