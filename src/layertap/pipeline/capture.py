"""Captures values in memory, in one pass."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.values import Values, auxiliary_arrays
from layertap.effects.derivatives import Baseline, derivatives
from layertap.effects.target import Of
from layertap.errors import DataError
from layertap.inputs.feed import Feed
from layertap.inputs.model_file import opened
from layertap.pipeline.planned_pass import pass_for, with_means
from layertap.planning.join_filter import Kind
from layertap.planning.padding import Pad
from layertap.planning.planner import data_specs, warn_of_missing
from layertap.planning.reduction import Dtype, Reduce, Reduction
from layertap.planning.selection import Selection
from layertap.tracing.model_structure import input_specs


def capture(
    model: keras.Model | str | os.PathLike[str],
    data: Any,
    *,
    before: str | Sequence[str] | None = None,
    outputs: str | Sequence[str] | None = None,
    joins: Kind | Sequence[Kind] = ("concatenate",),
    batch_size: int | None = None,
    dtype: Dtype | None = None,
    reduce: Reduce = None,
    pad: Pad | None = None,
    labels: str | None = None,
    ids: Any = None,
    for_head: bool = False,
    gradients: Of | None = None,
    attributions: Of | None = None,
    baseline: Baseline = "zero",
    steps: int | None = None,
) -> Values:
    """Captures the values of a model for some data in memory, in one pass.

    A model that is not changed is planned and compiled at the first call: see `Tap`.

    Args:
        model: A Keras model, or the path of its file. It is not changed; one that was
            never called is built.
        data: Data for `model.predict`, a table or a path: see `layertap.save`.
        before: See `layertap.plan`.
        outputs: See `layertap.plan`.
        joins: See `layertap.plan`.
        batch_size: Rows per batch, 32 by default. Not for data that come in batches.
        dtype: See `layertap.plan`. `overflowed` of the result counts the finite numbers
            that became infinite.
        reduce: See `layertap.plan`.
        pad: For data whose batches have different sizes, see `layertap.save`.
        labels: See `layertap.save`.
        ids: See `layertap.save`.
        for_head: See `layertap.plan`.
        gradients: See `layertap.save`.
        attributions: See `layertap.save`.
        baseline: See `layertap.save`.
        steps: See `layertap.save`.

    Returns:
        The values by address: NumPy arrays of shape `(rows, *value shape)`. Without
        `dtype` and `reduce`, they have the dtype that the join receives (`bfloat16` of
        `ml_dtypes`).

    Warns:
        PartialWarning: If values that a glob selected can't be captured: see `missing`
            of the result.

    Raises:
        LayertapError: See `layertap.plan`; also if the model does not accept the data.

    Example:
    ```python
    values = layertap.capture(model, x)
    values["fusion/in/0"]
    values.before("fusion")  # by operation: array
    ```
    """
    effects = derivatives(gradients, attributions, baseline, steps)
    model = opened(model, compiled=effects.need_loss)
    specs, reduction = input_specs(model), Reduction(dtype, reduce)
    selection = Selection(before, outputs, joins, for_head, reduction, pad, effects)
    feed = Feed(data, specs, batch_size, labels=labels, ids=ids)
    selection = with_means(model, feed, selection)
    specs = data_specs(model, feed, selection)
    compute = pass_for(model, specs, selection, feed.first())
    plan = compute.plan
    warn_of_missing(plan)
    batches, along = [], []
    for batch in feed.batches():
        batches.append(compute.owned(batch))
        along.append((batch.labels, batch.sample_weight, batch.ids))
    feed.check_rows(batch.row + batch.rows)

    def complete(names: Iterable[str]) -> dict[str, NDArray[Any]]:
        return {name: _concatenate(name, [b[name] for b in batches]) for name in names}

    y, weights, row_ids = (
        tree.mapped(lambda *parts: np.concatenate(parts), *parts)
        for parts in zip(*along, strict=True)
    )
    if feed.classes:
        y = np.array(feed.classes)[y]
    return Values(
        plan,
        complete(value.address for value in plan.stored),
        y,
        row_ids if feed.ids is None else np.asarray(feed.ids),
        weights,
        auxiliary=complete(auxiliary_arrays(plan)),
    )


def _concatenate(name: str, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Returns the rows of all batches in one array."""
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise DataError(
            f"{name} does not have rows of one shape. Received "
            f"{', '.join(map(str, shapes))} in different batches. Leave the value out, "
            "or pass `pad=` if the sizes of the data differ."
        )
    if len(arrays) == 1 and arrays[0].flags.writeable:
        return arrays[0]
    return np.concatenate(arrays)
