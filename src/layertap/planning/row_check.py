"""Decides by a real batch which values have the rows of the data."""

from dataclasses import replace

import keras

from layertap.inputs.convert import Batch
from layertap.planning.folded_rows import UNDECIDED
from layertap.tracing.collect import collect
from layertap.tracing.forward_pass import Wanted
from layertap.tracing.model_structure import map_arrays
from layertap.tracing.records import Trace, TracedValue


def check_rows(model: keras.Model, trace: Trace, batch: Batch) -> Trace:
    """Returns a trace in which every value has the rows of the data, or has not.

    TensorFlow does not know the sizes of some values: those of `tf.numpy_function`, for
    example. The model computes these values once, uncompiled.
    """
    unknown = {v.token: name for name, v in trace.values.items() if _is_unknown(v)}
    if not unknown:
        return trace
    wanted = Wanted(unknown.values(), {join.kind for join in trace.joins.values()})
    tensors = map_arrays(keras.ops.convert_to_tensor, batch.inputs)
    with keras.StatelessScope():
        computed = collect(model, tensors, wanted)

    def checked(value: TracedValue) -> TracedValue:
        # A join's own output may be no output of an operation.
        if not _is_unknown(value) or value.token not in unknown:
            return value
        tensor = computed[unknown[value.token]]
        rows = len(tensor) if tensor.shape else 0
        times, others = divmod(rows, batch.rows)
        # Any number of rows is a multiple of one row.
        if times and not others and (times == 1 or batch.rows > 1):
            return replace(value, times=times)
        if batch.rows == 1:
            fault = f"{UNDECIDED} whether it follows the rows: one row gave {rows}"
            return replace(value, times=0, fault=fault)
        fault = f"it has {rows} rows in a batch of {batch.rows}, and its own number"
        return replace(value, times=0, fault=fault)

    return trace.map(checked)


def _is_unknown(value: TracedValue) -> bool:
    return value.by_row is None and not value.fault
