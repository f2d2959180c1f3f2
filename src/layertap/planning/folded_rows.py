"""Rows that a model folds into one axis with heads, windows or frames.

The first axis of such a value is `outer * rows * inner`, and its size does not say in
which order. A probe does: it changes one row of the data and sees what changes.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from layertap.core import address
from layertap.core.values import Array
from layertap.tracing.collect import begin, tapped
from layertap.tracing.forward_pass import Arrays, Wanted
from layertap.tracing.model_structure import map_arrays
from layertap.tracing.records import TracedJoin, TracedValue

TracedValues = Mapping[str, TracedValue]

# Begins the reason why a value is refused that other data might show to have the rows.
UNDECIDED = "The first batch does not show"


def is_folded(value: TracedValue) -> bool:
    """Whether the first axis of a value is a multiple of the rows."""
    return not (value.by_row or value.fault) and bool(value.times)


def unfold(tensor: Any, outer: int, inner: int) -> Any:
    """Returns a tensor of shape `(outer * rows * inner, …)` as `(rows, …)`."""
    sizes = ops.shape(tensor)[1:]
    parts = ops.moveaxis(ops.reshape(tensor, (outer, -1, inner, *sizes)), 1, 0)
    return ops.reshape(parts, (-1, outer * inner, *sizes))


def unfold_rows(
    model: keras.Model, inputs: Any, joins: Sequence[TracedJoin], outputs: TracedValues
) -> tuple[list[TracedJoin], dict[str, TracedValue]]:
    """Returns joins and outputs with unfolded rows, as far as `inputs` prove them.

    `inputs` is a batch of the model, or None.
    """
    values = dict(outputs)
    for join in joins:
        for index, value in enumerate(join.inputs):
            values[address.branch(join.path, index)] = value
    folded = {value.token: name for name, value in values.items() if is_folded(value)}
    orders: dict[Hashable, set[int]] = {}
    if folded and inputs is not None:
        wanted = {name: values[name] for name in folded.values()}
        orders = _orders(model, inputs, wanted, {join.kind for join in joins})
    for join in joins:
        # Along other axes, the rows of all branches have one order.
        found = [orders[v.token] for v in join.inputs if orders.get(v.token)]
        common = set.intersection(*found) if found and join.axis != 0 else set()
        for one in found if common else ():
            one &= common
    unfolded = partial(_unfolded, orders=orders, proved=inputs is not None)
    return [_unfolded_join(join, unfolded) for join in joins], {
        name: unfolded(value) for name, value in outputs.items()
    }


def _unfolded_join(join: TracedJoin, unfolded: Any) -> TracedJoin:
    inputs = tuple(map(unfolded, join.inputs))
    if not any(value.outer for value in inputs):
        return replace(join, inputs=inputs)
    if not join.axis:
        # Unfolded, branches are not joined along their first axis.
        return replace(join, inputs=inputs, axis=None)
    first = next(value for value in inputs if value.outer)
    shape = (*first.shape[:2], *join.output.shape[1:])
    output = replace(join.output, shape=shape)
    return replace(join, inputs=inputs, axis=join.axis + 1, output=output)


def _unfolded(
    value: TracedValue, orders: Mapping[Hashable, set[int]], proved: bool
) -> TracedValue:
    """Returns a value with unfolded rows, or with the reason why they are not."""
    if not is_folded(value):
        return value
    possible = list(orders.get(value.token, ()))
    if len(possible) == 1:
        shape = (None, value.times, *value.shape[1:])
        return replace(value, shape=shape, outer=possible[0])
    reason = (
        f"its first axis is {value.times} times the rows, as if they were folded into "
        "it with heads, windows or the like. "
    )
    if not proved:
        reason += "Data show their order: pass some, without `pad` or `for_head`"
    elif possible:
        reason += f"{UNDECIDED} in which order"
    else:
        reason += "Its parts do not each follow one row of the data alone"
    return replace(value, fault=reason)


def _orders(
    model: keras.Model, inputs: Any, folded: TracedValues, kinds: set[str]
) -> dict[Hashable, set[int]]:
    """Returns the possible `outer` of values, by token: runs the model thrice.

    If one row of the inputs changes, only parts of that row may change.
    """
    inputs = map_arrays(_two_rows, inputs)
    rows = next(len(x) for x in keras.tree.flatten(inputs) if x is not None)
    step = tapped(model, Wanted(folded, kinds))

    def run(inputs: Any) -> Arrays:
        # Copies, since a model may use their memory again.
        return {name: np.array(array) for name, array in begin(step, inputs)().items()}

    before = run(inputs)
    orders: dict[Hashable, set[int]] = {}
    for row in (0, rows - 1):
        after = run(map_arrays(partial(_with_other, row=row), inputs))
        for name, value in folded.items():
            times = value.times or 1
            pairs = zip(before[name], after[name], strict=True)
            differs = [a.tobytes() != b.tobytes() for a, b in pairs]
            changed = np.flatnonzero(differs).tolist()
            possible = {
                outer
                for outer in range(1, times + 1)
                if times % outer == 0
                and len(differs) == times * rows
                and all(i // (times // outer) % rows == row for i in changed)
            }
            orders[value.token] = orders.get(value.token, possible) & possible
    return orders


def _two_rows(array: Array) -> Array:
    return np.concatenate([array, array]) if len(array) == 1 else array


def _with_other(array: Array, row: int) -> Array:
    """Returns rows of inputs with other values in one row, such as inputs may have."""
    other = array[len(array) - 1 - row]
    if np.array_equal(other, array[row]):
        other = np.roll(array[row], 1)
    changed = array.copy()
    changed[row] = other
    return changed
