"""Less to store: fewer numbers of a value, and narrower ones.

Both are part of the compiled pass, so that whole values never leave it. First the
reduction, then the dtype; and a plan foretells what comes of the two.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import keras
from keras import ops

from layertap.core.plan import Plan, Recipe, Shape, Value, shown
from layertap.core.values import OVERFLOWED
from layertap.errors import OptionError
from layertap.planning.fingerprint import told

Tensor = Any
Reduce = str | Callable[[Tensor], Tensor] | None
AnyValue = TypeVar("AnyValue", bound=Value)

NAMED = ("mean", "max", "flatten")

# Where rounding to the nearest begins to give infinity: half a step above the largest
# number. Compared with, rather than the result looked at, for XLA may leave out the
# rounding between a cast and what reads it.
OVERFLOWS_FROM = {"float16": 65520.0, "bfloat16": 2.0**128 - 2.0**119}

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_COMPLEX = ("complex64", "complex128")

# Rows that stand in for an unknown number, where a function asks for one.
_STAND_INS = (96, 160)


@dataclass(frozen=True)
class Reduction:
    """What is done to each value before it leaves the pass: reduced, then narrowed.

    Attributes:
        dtype: `"float16"` or `"bfloat16"`: the dtype of all floating values; None
            leaves them as they are. Integers, booleans and complex numbers stay.
        reduce: `"mean"` or `"max"` of each row, `"flatten"`, or a function that takes
            the tensor, rows first, and returns one with the same rows. The mean of
            `float16` and `bfloat16` is computed in `float32`, that of integers and
            booleans is `float32`.

    Raises:
        OptionError: If it is neither.
    """

    dtype: str | None = None
    reduce: Reduce = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in OVERFLOWS_FROM:
            raise OptionError(
                f"`dtype` is None, 'float16' or 'bfloat16'; found {self.dtype!r}."
            )
        if self.reduce in (None, *NAMED) or callable(self.reduce):
            return
        raise OptionError(
            f"`reduce` is None, {', '.join(map(repr, NAMED))}, or a function of a "
            f"tensor; found {self.reduce!r}."
        )

    @property
    def name(self) -> str | None:
        """The reduction as a store tells of it: a function by its name and a digest."""
        return told(self.reduce) if callable(self.reduce) else self.reduce

    def planned(self, plan: Plan) -> Plan:
        """Returns a plan of values as computed as the one of values as stored.

        Raises:
            OptionError: If `reduce` can't be had of a value.
        """
        if self == AS_COMPUTED:
            return plan
        if self.reduce is not None:
            # What is left of the branches does not join to what is left of their join.
            plan = without_joins(plan)
        narrowed: dict[str, str] = {}

        def less(value: AnyValue) -> AnyValue:
            shape, dtype = self._foretold(value)
            if self.dtype is not None and dtype in _FLOATS and dtype != self.dtype:
                if value.address not in plan.recipes:
                    narrowed[value.address] = dtype
                dtype = self.dtype
            return replace(value, shape=shape, dtype=dtype)

        plan = plan.each(less)
        return replace(plan, dtype=self.dtype, reduce=self.name, narrowed=narrowed)

    def applied(self, tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Reduces and narrows the values of a batch, and counts what became infinite.

        Args:
            tensors: The tensors by address. Those that are not stored by the plan, a
                join's own output, are narrowed only.
            plan: The plan of the values as stored.

        Returns:
            The tensors, and under `overflowed`, if any are narrowed, how many numbers
            of each row became infinite by it.
        """
        if self == AS_COMPUTED:
            return dict(tensors)
        stored = {value.address for value in plan.stored}
        found, counts = {}, {}
        for name, tensor in tensors.items():
            if name in stored:
                tensor = self._reduced(tensor)
            if self.dtype is not None and _dtype(tensor) in _FLOATS:
                if name in plan.narrowed:
                    counts[name] = _overflows(tensor, OVERFLOWS_FROM[self.dtype])
                # By way of float32, as each backend rounds float64 in its own way.
                tensor = ops.cast(ops.cast(tensor, "float32"), self.dtype)
            found[name] = tensor
        if counts:
            columns = [counts[name] for name in plan.narrowed]
            found[OVERFLOWED] = ops.stack(columns, axis=1)
        return found

    def _reduced(self, tensor: Tensor) -> Tensor:
        if callable(self.reduce):
            return self.reduce(tensor)
        axes = tuple(range(1, len(tensor.shape)))
        match self.reduce:
            case "mean":
                return _mean(tensor, axes)
            case "max" if axes:
                reduced = ops.any if _dtype(tensor) == "bool" else ops.max
                return reduced(tensor, axis=axes)
            case "flatten":
                sizes = tensor.shape[1:]
                if None in sizes:
                    return ops.reshape(tensor, (ops.shape(tensor)[0], -1))
                return ops.reshape(tensor, (-1, math.prod(sizes)))
        return tensor

    def _foretold(self, value: Value) -> tuple[Shape, str]:
        """Returns the shape and the dtype that a value has after `reduce`."""
        if callable(self.reduce):
            return _of_function(self.reduce, value)
        sizes = [n for n in value.shape[1:] if n is not None]
        known = len(sizes) == len(value.shape) - 1
        match self.reduce:
            case "mean":
                stays = value.dtype in (*_FLOATS, *_COMPLEX)
                return (None,), value.dtype if stays else "float32"
            case "max":
                if value.dtype in _COMPLEX:
                    raise OptionError(
                        f"{value.address} has dtype {value.dtype}: complex numbers "
                        'have no order, so reduce="max" can\'t be had of it. Leave it '
                        "out, or pass a function."
                    )
                return (None,), value.dtype
            case "flatten":
                return (None, math.prod(sizes) if known else None), value.dtype
        return value.shape, value.dtype


AS_COMPUTED = Reduction()


def _dtype(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _mean(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    dtype = _dtype(tensor)
    if dtype not in ("float64", *_COMPLEX):
        tensor = ops.cast(tensor, "float32")
    if axes:
        tensor = ops.mean(tensor, axis=axes)
    return ops.cast(tensor, dtype) if dtype in _FLOATS else tensor


def _overflows(tensor: Tensor, limit: float) -> Tensor:
    """Counts in each row the numbers that are finite, and will not be any more."""
    wide = ops.absolute(ops.cast(tensor, "float32"))
    over = ops.cast(ops.logical_and(ops.isfinite(tensor), wide >= limit), "int32")
    axes = tuple(range(1, len(over.shape)))
    return ops.sum(over, axis=axes) if axes else over


class _Function(keras.Operation):
    """A call of a function that the backend may run with symbolic tensors."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name="layertap_reduce")
        self.function = function

    def call(self, tensor: Tensor) -> Tensor:
        return self.function(tensor)


def _of_function(
    function: Callable[[Tensor], Tensor], value: Value
) -> tuple[Shape, str]:
    """Returns the shape and the dtype of a function of a value.

    Raises:
        OptionError: If it can't take the value, or returns something else than one
            tensor with the same rows.
    """

    def run(rows: int | None) -> Any:
        sizes = [rows if n is None else n for n in value.shape]
        given = keras.KerasTensor(sizes, dtype=value.dtype)
        return _Function(function).compute_output_spec(given)

    rows: tuple[int | None, ...] = (None,)
    try:
        try:
            found = [run(None)]
        except Exception:  # A function may want the rows as a number.
            rows = _STAND_INS
            found = [run(n) for n in rows]
    except Exception as error:  # Whatever a function raises.
        raise OptionError(
            f"`reduce` can't take {value.address}, {shown(value.shape)} "
            f"{value.dtype}: {type(error).__name__}: {error}"
        ) from error
    shapes = [getattr(one, "shape", None) for one in found]
    if any(
        shape is None or tuple(shape[:1]) != (n,)
        for shape, n in zip(shapes, rows, strict=True)
    ):
        returned = type(found[0]).__name__ if shapes[0] is None else tuple(shapes[0])
        raise OptionError(
            f"`reduce` returns {returned} for {value.address}, "
            f"{shown(value.shape)}; expected one tensor with the same rows: "
            "(rows, …). Reduce over other axes than the first."
        )
    sizes = (set(size) for size in zip(*shapes, strict=True))
    # Where two numbers of rows stood in, the rows differ, and are unknown again.
    merged = tuple(size.pop() if len(size) == 1 else None for size in sizes)
    return merged, _dtype(found[0])


def without_joins(
    plan: Plan, which: Callable[[Recipe], bool] = lambda recipe: True
) -> Plan:
    """Returns a plan in which no value is rebuilt by joining others.

    The first value of those that are one tensor is stored; the others are aliases.

    Args:
        plan: A plan.
        which: Whether this recipe is to go; by default all that join.
    """
    recipes = dict(plan.recipes)
    first: dict[str | None, str] = {}

    def stored(value: AnyValue) -> AnyValue:
        recipe = plan.recipes.get(value.address)
        if recipe is None or len(recipe.addresses) == 1 or not which(recipe):
            return value
        same = first.setdefault(value.alias_of, value.address)
        if same == value.address:
            del recipes[value.address]
            return replace(value, alias_of=None)
        recipes[value.address] = Recipe((same,))
        return replace(value, alias_of=same)

    return replace(plan.each(stored), recipes=recipes)
