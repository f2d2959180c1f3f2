"""Decides by a real batch which values have the rows of the data."""

from dataclasses import replace
from functools import partial
from typing import Any

import keras

from layertap.core import address
from layertap.inputs.convert import Batch
from layertap.tracing.collect import collect
from layertap.tracing.forward_pass import Wanted
from layertap.tracing.records import Trace, TracedValue


def check_rows(model: keras.Model, trace: Trace, batch: Batch) -> Trace:
    """Returns a trace in which every value has the rows of the data, or has not.

    TensorFlow does not know the sizes of some values: those of `tf.numpy_function`, for
    example. The model computes these values once, uncompiled.
    """
    branches = {
        path: _unknown(join.inputs, partial(address.branch, path))
        for path, join in trace.joins.items()
    }
    outputs = {
        path: _unknown(values, partial(address.output, path, count=len(values)))
        for path, values in trace.outputs.items()
    }
    kinds = {trace.joins[path].kind for path, names in branches.items() if names}
    wanted = Wanted(branches, outputs, kinds)
    if not wanted.addresses:
        return trace
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, batch.inputs)
    with keras.StatelessScope():
        computed = collect(model, tensors, wanted)

    def checked(value: TracedValue, name: str) -> TracedValue:
        if name not in computed:
            return value
        rows = len(computed[name]) if computed[name].shape else 0
        fault = f"it has {rows} rows in a batch of {batch.rows}, and its own number"
        same = rows == batch.rows
        if batch.rows > 1 and not same and rows and rows % batch.rows == 0:
            return replace(value, by_row=False, times=rows // batch.rows)
        return replace(value, by_row=same, fault="" if same else fault)

    joins = {
        path: replace(
            join,
            inputs=tuple(
                checked(value, address.branch(path, index))
                for index, value in enumerate(join.inputs)
            ),
        )
        for path, join in trace.joins.items()
    }
    values = {
        path: tuple(
            checked(value, address.output(path, index, len(of_path)))
            for index, value in enumerate(of_path)
        )
        for path, of_path in trace.outputs.items()
    }
    return replace(trace, joins=joins, outputs=values)


def _unknown(values: tuple[TracedValue, ...], name: Any) -> dict[int, str]:
    """Returns the addresses of the values whose rows are unknown, by their number."""
    return {
        index: name(index)
        for index, value in enumerate(values)
        if value.by_row is None and not value.fault
    }
