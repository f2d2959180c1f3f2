"""Values in memory, in one pass."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import tree
from layertap.core.values import Values, auxiliary_arrays
from layertap.errors import DataError
from layertap.inputs.feed import Feed
from layertap.pipeline.tap import Tap
from layertap.planning.padding import Pad
from layertap.planning.planner import Selection, plan_from_data
from layertap.planning.reduction import Reduce, Reduction
from layertap.tracing.model_structure import check_model, input_specs


def capture(
    model: keras.Model,
    data: Any,
    *,
    before: str | Sequence[str] | None = None,
    outputs: str | Sequence[str] | None = None,
    joins: str | Sequence[str] = ("concatenate",),
    batch_size: int | None = None,
    dtype: str | None = None,
    reduce: Reduce = None,
    pad: Pad | None = None,
    for_head: bool = False,
) -> Values:
    """Returns the values of a model for some data, in memory, in one pass.

    Args:
        model: A Keras model. It is not changed; one that was never called is built.
        data: Whatever `model.predict` takes. A tuple is `(x, y)` or
            `(x, y, sample_weight)`, as in a data set.
        before: As of `layertap.plan`.
        outputs: As of `layertap.plan`.
        joins: As of `layertap.plan`.
        batch_size: Rows per batch, 32 by default; not for data that brings its own
            batches.
        dtype: As of `layertap.plan`. `overflowed` of the values says how many finite
            numbers became infinite by it.
        reduce: As of `layertap.plan`.
        pad: For data whose batches have different sizes, as of `layertap.save`.
        for_head: As of `layertap.plan`.

    Returns:
        The values by address: NumPy arrays of shape `(rows, *value shape)`, with the
        dtype that the join receives (`bfloat16` as of `ml_dtypes`), unless `dtype` and
        `reduce` make them smaller.

    Raises:
        LayertapError: As of `layertap.plan`, and if the model can't take the data.

    Example:
    ```python
    values = layertap.capture(model, x)
    values["fusion/in/0"]
    values.before("fusion")  # made by -> array
    ```
    """
    check_model(model)
    reduction = Reduction(dtype, reduce)
    feed = Feed(data, input_specs(model), batch_size)
    selection = Selection(before, outputs, joins, for_head, reduction, pad)
    plan = plan_from_data(model, feed, selection)
    tap = Tap(model, plan, reduction)
    batches, along = [], []
    for batch in feed.batches():
        # Copies: a model may use the memory of its values again in the next batch.
        batches.append({name: np.array(array) for name, array in tap(batch).items()})
        along.append((batch.labels, batch.sample_weight))
    arrays, more = (
        {name: _together(name, [found[name] for found in batches]) for name in names}
        for names in ([value.address for value in plan.stored], auxiliary_arrays(plan))
    )
    labels, weights = (
        tree.mapped(lambda *parts: np.concatenate(parts), *found)
        for found in zip(*along, strict=True)
    )
    return Values(plan, arrays, labels, sample_weight=weights, beside=more)


def _together(name: str, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Returns the rows of all batches in one array."""
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise DataError(
            f"{name} has rows of the shapes {', '.join(map(str, shapes))} in different "
            "batches, which are no one array. Leave it out, or pass `pad=`, if it is "
            "the data that have different sizes."
        )
    return np.concatenate(arrays)
