"""Proves that a pass on JAX computes each row from that row alone.

The proof compares the jaxprs of one pass for fewer and for more rows. They must be the
same program, with shapes that differ along one axis at most: that of the rows. It is
followed from the inputs to the outputs. An equation that may mix rows, or that is not
known, ends the proof.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from layertap.tracing.backends.jaxpr import called_jaxpr

# The axis of the rows; None for a value that is the same for all numbers of rows.
Axis = int | None

# Each number of an output depends on the numbers at its place alone.
_ELEMENTWISE = """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp
    convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2
    expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul
    ne neg nextafter not or pow reduce_precision rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient
    sub tan tanh xor
"""
_REDUCTIONS = "and max min or prod sum xor"
_CALLS = "jit pjit closed_call custom_jvp_call custom_vjp_call remat2 checkpoint"
# Parameters that may differ: shapes, which are checked, bodies, which are followed, and
# derivatives, which do not run.
_DIFFERENT = {
    *("shape", "new_sizes", "limit_indices", "slice_sizes"),
    *("jaxpr", "call_jaxpr", "fun_jaxpr", "branches"),
    *("jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees"),
}


class _UnprovenError(Exception):
    """An equation may mix rows."""


def _require(condition: bool) -> None:
    if not condition:
        raise _UnprovenError


@dataclass(frozen=True)
class RowFlow:
    """The flow of rows through the jaxprs of one pass for fewer and for more rows."""

    rows: tuple[int, int]

    def independent(
        self, fewer: core.ClosedJaxpr, more: core.ClosedJaxpr, inputs: Sequence[Axis]
    ) -> bool:
        """Whether all outputs have rows, each of which follows from that row alone.

        `inputs` are the axes of the rows in the inputs.
        """
        try:
            return all(axis == 0 for axis in self.follow(fewer, more, inputs))
        except _UnprovenError:
            return False

    def follow(
        self, fewer: core.ClosedJaxpr, more: core.ClosedJaxpr, inputs: Sequence[Axis]
    ) -> list[Axis]:
        """Returns the axes of the rows in the outputs."""
        _require(_all_same(fewer.consts, more.consts))
        # By variable for fewer rows: that for more rows, and the axis.
        known: dict[Any, tuple[Any, Axis]] = {}

        def bind(
            ones: Sequence[Any], others: Sequence[Any], axes: Sequence[Axis]
        ) -> None:
            _require(len(ones) == len(others) == len(axes))
            for one, other, axis in zip(ones, others, axes, strict=True):
                self._check_shapes(one.aval, other.aval, axis)
                known[one] = other, axis

        def axes_of(ones: Sequence[Any], others: Sequence[Any]) -> list[Axis]:
            _require(len(ones) == len(others))
            return list(map(axis_of, ones, others))

        def axis_of(one: Any, other: Any) -> Axis:
            if isinstance(one, core.Literal):
                _require(isinstance(other, core.Literal) and _same(one.val, other.val))
                return None
            expected, axis = known[one]
            _require(other is expected)
            return axis

        small, large = fewer.jaxpr, more.jaxpr
        bind(small.constvars, large.constvars, [None] * len(small.constvars))
        bind(small.invars, large.invars, inputs)
        _require(len(small.eqns) == len(large.eqns))
        for one, other in zip(small.eqns, large.eqns, strict=True):
            axes = axes_of(one.invars, other.invars)
            bind(one.outvars, other.outvars, self._outputs(one, other, axes))
        return axes_of(small.outvars, large.outvars)

    def _check_shapes(self, one: Any, other: Any, axis: Axis) -> None:
        """Requires that two shapes differ by their rows alone."""
        # Tokens have no shape.
        _require(hasattr(one, "shape") and hasattr(other, "shape"))
        shapes = [list(one.shape), list(other.shape)]
        _require(one.dtype == other.dtype and len(shapes[0]) == len(shapes[1]))
        if axis is not None:
            _require(tuple(shape.pop(axis) for shape in shapes) == self.rows)
        _require(shapes[0] == shapes[1])

    def _outputs(
        self, one: core.JaxprEqn, other: core.JaxprEqn, axes: list[Axis]
    ) -> Sequence[Axis]:
        """Returns the axes of the rows in the outputs of an equation."""
        _require(one.primitive is other.primitive and not one.effects)
        ranks = {
            tuple(getattr(output.aval, "ndim", None) for output in equation.outvars)
            for equation in (one, other)
        }
        _require(len(ranks) == 1)
        different = {
            name
            for name, value in one.params.items()
            if not _same(value, other.params.get(name))
        }
        rule = _RULES.get(one.primitive.name)
        if not different and set(axes) <= {None}:
            return [None] * len(one.outvars)
        if rule is None or not different <= _DIFFERENT:
            raise _UnprovenError
        outputs = rule(_Equation(self, one, other, axes))
        if isinstance(outputs, list):
            return outputs
        return [outputs] * len(one.outvars)


@dataclass(frozen=True)
class _Equation:
    """An equation for fewer and for more rows, with the axes of its operands."""

    flow: RowFlow
    fewer: core.JaxprEqn
    more: core.JaxprEqn
    axes: list[Axis]

    def __getitem__(self, parameter: str) -> Any:
        _require(parameter in self.fewer.params)  # A release of JAX may rename it.
        return self.fewer.params[parameter]

    @property
    def axis(self) -> int:
        """The axis of the first operand, if it alone has rows."""
        axis, *others = self.axes
        _require(axis is not None and set(others) <= {None})
        assert axis is not None
        return axis

    @property
    def common_axis(self) -> int:
        """The axis of all operands with rows. The others are the same for each row."""
        axis, *others = set(self.axes) - {None} or {None}
        if axis is None or others:
            raise _UnprovenError
        for own, operand in zip(self.axes, self.fewer.invars, strict=True):
            sizes = operand.aval.shape
            _require(own is not None or not sizes or sizes[axis] == 1)
        return axis

    @property
    def new_axis(self) -> int:
        """The axis of the rows in the output, if the operands have none."""
        _require(set(self.axes) <= {None})
        shapes = self.fewer.outvars[0].aval.shape, self.more.outvars[0].aval.shape
        axes = [
            i
            for i, sizes in enumerate(zip(*shapes, strict=True))
            if sizes[0] != sizes[1]
        ]
        _require(len(axes) == 1)
        return axes[0]

    def require_all_rows(self, sizes: str) -> None:
        """Requires that a parameter, sizes by axis, has all rows."""
        for equation, rows in zip((self.fewer, self.more), self.flow.rows, strict=True):
            _require(equation.params[sizes][self.axis] == rows)

    def follow(
        self, axes: list[Axis], body: Any = None, other: Any = None
    ) -> list[Axis]:
        """Returns the axes of the outputs of a body, by default the only one."""
        fewer = called_jaxpr(self.fewer) if body is None else body
        more = called_jaxpr(self.more) if other is None else other
        if fewer is None or more is None:
            raise _UnprovenError
        return self.flow.follow(fewer, more, axes)


# By primitive: the axes of the rows in its outputs, or the one of all of them.
_Rule = Callable[[_Equation], Axis | list[Axis]]


def _without(removed: str) -> _Rule:
    """Returns the rule of an equation that removes axes."""

    def rule(equation: _Equation) -> Axis:
        axis, axes = equation.axis, equation[removed]
        _require(axis not in axes)
        return axis - sum(one < axis for one in axes)

    return rule


def _not_along(parameter: str) -> _Rule:
    """Returns the rule of an equation that mixes numbers along some axes."""

    def rule(equation: _Equation) -> Axis:
        axes = equation[parameter]
        axes = axes if isinstance(axes, tuple) else (axes,)
        _require(equation.common_axis not in axes)
        return equation.common_axis

    return rule


def _broadcast(equation: _Equation) -> Axis:
    dimensions = equation["broadcast_dimensions"]
    if equation.axes[0] is not None:
        return dimensions[equation.axis]
    axis = equation.new_axis
    sizes = dict(zip(dimensions, equation.fewer.invars[0].aval.shape, strict=True))
    _require(sizes.get(axis, 1) == 1)
    return axis


def _reshape(equation: _Equation) -> Axis:
    """Finds the rows again: as many numbers are before them, and as many after."""
    shape, sizes = equation.fewer.invars[0].aval.shape, equation["new_sizes"]
    _require(equation["dimensions"] is None)
    places = zip(sizes, equation.more.params["new_sizes"], strict=True)
    for place, pair in enumerate(places):
        before = math.prod(sizes[:place]) == math.prod(shape[: equation.axis])
        if pair == equation.flow.rows and before:
            return place
    raise _UnprovenError


def _dot(equation: _Equation) -> Axis:
    """Rows may be of one operand only, or of both if these are paired."""
    contracted, paired = equation["dimension_numbers"]
    axes, count = equation.axes, len(paired[0])
    for place, pair in enumerate(zip(*paired, strict=True)):
        if pair == tuple(axes):
            return place
    _require(None in axes)
    for side, axis in enumerate(axes):
        operand = equation.fewer.invars[side].aval.shape
        free = [
            i
            for i in range(len(operand))
            if i not in (*contracted[side], *paired[side])
        ]
        if axis is not None:
            _require(axis in free)
            return count + free.index(axis)
        count += len(free)
    raise _UnprovenError


def _convolution(equation: _Equation) -> Axis:
    numbers = equation["dimension_numbers"]
    _require(numbers.lhs_spec[0] == equation.axis)
    _require(equation["batch_group_count"] == 1)
    return numbers.out_spec[0]


def _window(equation: _Equation) -> Axis:
    axis = equation.axis
    _require(equation["window_dimensions"][axis] == 1)
    _require(equation["window_strides"][axis] == 1)
    _require(equation["padding"][axis] == (0, 0))
    return axis


def _pad(equation: _Equation) -> Axis:
    _require(equation["padding_config"][equation.axis] == (0, 0, 0))
    return equation.axis


def _slice(equation: _Equation) -> Axis:
    axis, strides = equation.axis, equation["strides"]
    _require(equation["start_indices"][axis] == 0)
    _require(not strides or strides[axis] == 1)
    equation.require_all_rows("limit_indices")
    return axis


def _dynamic_slice(equation: _Equation) -> Axis:
    equation.require_all_rows("slice_sizes")
    return equation.axis


def _gather(equation: _Equation) -> Axis:
    """The rows are those of the indices, or all rows of the operand."""
    numbers, (operand, indices) = equation["dimension_numbers"], equation.axes
    _require(not numbers.operand_batching_dims)
    offsets = numbers.offset_dims
    if operand is None and indices is not None:
        rank = len(equation.fewer.outvars[0].aval.shape)
        places = [axis for axis in range(rank) if axis not in offsets]
        # Rows of padding are equal.
        _require(indices < len(places) and not equation["unique_indices"])
        return places[indices]
    _require(operand not in (*numbers.collapsed_slice_dims, *numbers.start_index_map))
    equation.require_all_rows("slice_sizes")
    return offsets[operand - sum(i < operand for i in numbers.collapsed_slice_dims)]


def _stack(equation: _Equation) -> Axis:
    return equation.common_axis + (equation["axis"] <= equation.common_axis)


def _branches(equation: _Equation) -> list[Axis]:
    """All branches must have rows along the same axes; the choice must have none."""
    _require(equation.axes[0] is None)
    branches = equation["branches"], equation.more.params["branches"]
    _require(len(branches[0]) == len(branches[1]))
    pairs = zip(*branches, strict=True)
    first, *others = [equation.follow(equation.axes[1:], *pair) for pair in pairs]
    _require(all(axes == first for axes in others))
    return first


def _scan(equation: _Equation) -> list[Axis]:
    """Each step must have all rows, and leave them where they are."""
    if "ft_in" in equation.fewer.params:  # JAX 0.12: three tuples of operands.
        constants, carries, _ = map(len, equation["ft_in"].unpack())
    else:
        constants, carries = equation["num_consts"], equation["num_carry"]
    carried = constants + carries
    _require(0 not in equation.axes[carried:])
    axes = [*equation.axes[:carried], *(a and a - 1 for a in equation.axes[carried:])]
    outputs = equation.follow(axes, equation["jaxpr"], equation.more.params["jaxpr"])
    state, stacked = outputs[:carries], outputs[carries:]
    _require(state == equation.axes[constants:carried])
    return [*state, *(None if axis is None else axis + 1 for axis in stacked)]


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), lambda equation: equation.common_axis),
    **dict.fromkeys(_CALLS.split(), lambda equation: equation.follow(equation.axes)),
    **{f"reduce_{name}": _without("axes") for name in _REDUCTIONS.split()},
    **{name: _without("axes") for name in ("argmax", "argmin")},
    **{f"reduce_window_{name}": _window for name in ("max", "min", "sum")},
    **{f"cum{name}": _not_along("axis") for name in ("max", "min", "prod", "sum")},
    "broadcast_in_dim": _broadcast,
    "concatenate": _not_along("dimension"),
    "cond": _branches,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "iota": lambda equation: equation.new_axis,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _not_along("dimensions"),
    "scan": _scan,
    "slice": _slice,
    "sort": _not_along("dimension"),
    "split": _not_along("axis"),
    "squeeze": _without("dimensions"),
    "stack": _stack,
    "transpose": lambda equation: equation["permutation"].index(equation.axis),
}


def _all_same(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(ones) == len(others) and all(map(_same, ones, others))


def _same(one: Any, other: Any) -> bool:
    """Whether two parameters or constants are equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return _all_same(one, other)
    if isinstance(one, float | np.generic | np.ndarray | jax.Array):
        dtypes = [jax.dtypes.result_type(value) for value in (one, other)]
        if jax.dtypes.issubdtype(dtypes[0], jax.dtypes.extended):
            return False
        floats = jax.dtypes.issubdtype(dtypes[0], np.inexact)
        return dtypes[0] == dtypes[1] and np.array_equal(one, other, equal_nan=floats)
    return bool(one == other)
