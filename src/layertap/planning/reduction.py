"""Reduces and narrows values before they are stored.

Both are part of the compiled pass, so that complete values never leave it: first the
reduction, then the dtype. A plan predicts the shape and the dtype that result.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

from layertap.core import tables
from layertap.core.address import OVERFLOWED
from layertap.core.plan import Plan, Shape
from layertap.errors import OptionError
from layertap.tracing.keras_internals import backend
from layertap.tracing.records import TracedValue
from layertap.tracing.reuse.function_fingerprint import function_fingerprint

Tensor = Any
Named = Literal["avg", "max", "flatten"]
Reduce = Named | Callable[[Tensor], Tensor] | None
Dtype = Literal["float16", "bfloat16"] | type[np.float16]

NAMED = get_args(Named)

# From here on, rounding to the nearest gives infinity: half a step above the largest
# number. Values are compared with it before the cast, since XLA may leave out the
# rounding between a cast and its reader.
OVERFLOWS_FROM = {"float16": 65520.0, "bfloat16": 2.0**128 - 2.0**119}

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_COMPLEX = ("complex64", "complex128")

# Numbers of rows that stand in for an unknown one, where a function needs a number.
_STAND_INS = (96, 160)


@dataclass(frozen=True)
class Reduction:
    """A change to each value before it leaves the pass: reduced, then narrowed.

    The average of `float16` and `bfloat16` is computed in `float32`; that of integers
    and booleans is `float32`. Only floating values are narrowed. See `layertap.plan`.
    """

    # What a user passed, or a store holds.
    dtype: Any = None
    reduce: Any = None

    def __post_init__(self) -> None:
        name = self.dtype
        with suppress(TypeError):
            # Also `np.float16`.
            name = None if name is None else np.dtype(name).name
        if name not in (None, *OVERFLOWS_FROM):
            raise OptionError(
                "`dtype` is invalid. Expected None, 'float16' or 'bfloat16'. "
                f"Received {self.dtype!r}."
            )
        object.__setattr__(self, "dtype", name)
        if self.reduce not in (None, *NAMED) and not callable(self.reduce):
            advice = (
                " Pass 'avg' for the average of each channel. For one number a row, "
                "pass a function: lambda x: keras.ops.mean(x, range(1, len(x.shape)))."
            )
            raise OptionError(
                f"`reduce` is invalid. Expected None, {', '.join(map(repr, NAMED))}, "
                f"or a function of a tensor. Received {self.reduce!r}."
                + (advice if self.reduce == "mean" else "")
            )

    def __hash__(self) -> int:
        """Identifies a function: its class may compare its content."""
        return hash((self.dtype, id(self.reduce) if callable(self.reduce) else None))

    @property
    def name(self) -> str | None:
        """The reduction as a store records it: a function by its name and a digest."""
        if callable(self.reduce):
            return function_fingerprint(self.reduce)
        return self.reduce

    def stored_dtype(self, dtype: str) -> str:
        """Returns the dtype in which values of a dtype, after `reduce`, are stored."""
        return dtype if self.dtype is None or dtype not in _FLOATS else self.dtype

    def pools_first(self, name: str, traced: TracedValue) -> bool:
        """Returns whether `reduce` pools a value whose channels are its first axis."""
        if self.reduce not in ("avg", "max") or not _pooled_axes(traced.shape):
            return False
        first = traced.data_format == "channels_first"
        if not traced.data_format or (first and traced.outer):
            raise OptionError(
                f"reduce={self.reduce!r} can't find the channels of {name}: "
                f"{traced.made_by} has no data_format, and other operations have "
                "another one than keras.config.image_data_format(). Set that one, or "
                "pass a function."
            )
        return first

    def reduced_spec(
        self, name: str, shape: Shape, dtype: str, channels_first: bool
    ) -> tuple[Shape, str]:
        """Returns the shape and the dtype that a value has after `reduce`."""
        if self.reduce is None:
            return shape, dtype
        if self.reduce == "max" and dtype in _COMPLEX and _pooled_axes(shape):
            raise OptionError(
                f'reduce="max" does not support {name} of dtype {dtype}: complex '
                "numbers have no order. Leave the value out, or pass a function."
            )
        reduced = partial(self._reduced, channels_first=channels_first)
        return _function_spec(reduced, name, shape, dtype)

    def apply(self, tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Reduces and narrows the tensors of a batch, by address.

        Tensors that the plan does not store, outputs of joins, are only narrowed. If
        some are narrowed, `overflowed` counts the numbers of each row that become
        infinite.
        """
        if self == AS_COMPUTED:
            return dict(tensors)
        stored = {value.address for value in plan.stored}
        results, counts = {}, {}
        for name, tensor in tensors.items():
            if name in stored:
                tensor = self._reduced(tensor, name in plan.channels_first)
            if self.dtype is not None and _dtype(tensor) in _FLOATS:
                if name in plan.narrowed:
                    counts[name] = _overflows(tensor, OVERFLOWS_FROM[self.dtype])
                # By way of float32, since backends round float64 differently.
                tensor = ops.cast(ops.cast(tensor, "float32"), self.dtype)
            results[name] = tensor
        if counts:
            columns = [counts[name] for name in plan.narrowed]
            results[OVERFLOWED] = ops.stack(columns, axis=1)
        return results

    def _reduced(self, tensor: Tensor, channels_first: bool) -> Tensor:
        if callable(self.reduce):
            return self.reduce(tensor)
        axes = _pooled_axes(tensor.shape, channels_first)
        match self.reduce:
            case "avg" if axes:
                if "float8" in _dtype(tensor):
                    # Keras has no mean of these.
                    tensor = ops.cast(tensor, "float32")
                return ops.mean(tensor, axis=axes)
            case "max" if axes:
                reduced = ops.any if _dtype(tensor) == "bool" else ops.max
                return reduced(tensor, axis=axes)
            case "flatten":
                sizes = tensor.shape[1:]
                if None in sizes:
                    return ops.reshape(tensor, (ops.shape(tensor)[0], -1))
                return ops.reshape(tensor, (-1, math.prod(sizes)))
        return tensor


AS_COMPUTED = Reduction()


def _dtype(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _pooled_axes(shape: Sequence[Any], channels_first: bool = False) -> tuple[int, ...]:
    """Returns the axes of a shape besides those of the rows and of the channels."""
    return tuple(range(1 + channels_first, len(shape) - 1 + channels_first))


def _overflows(tensor: Tensor, limit: float) -> Tensor:
    """Counts in each row the finite numbers that become infinite."""
    wide = ops.absolute(ops.cast(tensor, "float32"))
    over = ops.cast(ops.logical_and(ops.isfinite(tensor), wide >= limit), "int32")
    axes = tuple(range(1, len(over.shape)))
    return ops.sum(over, axis=axes) if axes else over


def _function_spec(
    function: Callable[[Tensor], Tensor], name: str, shape: Shape, dtype: str
) -> tuple[Shape, str]:
    """Returns the shape and the dtype that a function makes of a value."""

    def run(rows: int | None) -> Any:
        sizes = [rows if n is None else n for n in shape]
        return backend.compute_output_spec(function, keras.KerasTensor(sizes, dtype))

    shown = tables.shape(shape)
    specs: dict[int | None, Any]
    try:
        try:
            specs = {None: run(None)}
        except Exception:  # A function may need the rows as a number.
            specs = {rows: run(rows) for rows in _STAND_INS}
    except Exception as error:  # A function may raise anything.
        raise OptionError(
            f"`reduce` does not accept {name}, {shown} {dtype}. It raised "
            f"{type(error).__name__}: {error}"
        ) from error
    for rows, spec in specs.items():
        returned = getattr(spec, "shape", None)
        if returned is None or tuple(returned[:1]) != (rows,):
            raise OptionError(
                f"`reduce` does not keep the rows of {name}, {shown}. Expected one "
                "tensor of shape (rows, …). Received "
                f"{type(spec).__name__ if returned is None else tuple(returned)}. "
                "Reduce over other axes than the first."
            )
    sizes = map(set, zip(*(spec.shape for spec in specs.values()), strict=True))
    # Sizes that differ between two numbers of rows are unknown, such as the rows.
    merged = tuple(size.pop() if len(size) == 1 else None for size in sizes)
    return merged, _dtype(spec)
