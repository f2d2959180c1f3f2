"""The compiled pass that returns exactly the planned values."""

from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np

from layertap.core import address
from layertap.core.plan import Plan
from layertap.effects.derivatives import NONE, Derivatives
from layertap.errors import DataError, OptionError
from layertap.inputs.convert import Batch
from layertap.inputs.feed import Feed
from layertap.planning.padding import pad_to
from layertap.planning.planned_step import PlannedStep, planned_step
from layertap.planning.planner import BatchSpecs, data_specs, plan_for_batch
from layertap.planning.reduction import AS_COMPUTED, Reduction
from layertap.planning.selection import Selection
from layertap.results.statistics.encoding import decode_all
from layertap.results.statistics.feature_axes import derive_statistics
from layertap.results.statistics.gather import Gatherer
from layertap.tracing.collect import may_change
from layertap.tracing.forward_pass import Arrays, Tensors
from layertap.tracing.reuse.memo import remembered


def planned_pass(
    model: keras.Model,
    plan: Plan,
    reduction: Reduction = AS_COMPUTED,
    derivatives: Derivatives = NONE,
    *,
    joined: bool = False,
) -> "PlannedPass":
    """Returns the pass of a plan: that of an unchanged model is compiled once."""
    step = planned_step(model, plan, reduction, derivatives, joined=joined)
    return PlannedPass(plan, step)


def pass_for(
    model: keras.Model, specs: BatchSpecs, selection: Selection, first: Batch
) -> "PlannedPass":
    """Returns the pass of a selection for input specs, and plans it with a batch."""
    reduction, derivatives = selection.reduction, selection.derivatives

    def make() -> tuple[PlannedPass, bool]:
        plan, for_all_data = plan_for_batch(model, specs, selection, first)
        return planned_pass(model, plan, reduction, derivatives), for_all_data

    made, _ = remembered(
        model,
        ("pass", selection.key(model), repr(specs)),
        make,
        calls=selection.calls(model),
        keep=lambda made: made[1],
    )
    return made


def with_means(model: keras.Model, feed: Feed, selection: Selection) -> Selection:
    """Returns a selection with the means of the data as baseline, if it asks for them.

    They are those of each unit, as the statistics of a store have them.
    """
    derivatives = selection.derivatives
    if derivatives.attributions is None or derivatives.baseline != "mean":
        return selection
    if not feed.again:
        raise OptionError(
            'baseline="mean" reads the data twice, but an iterator can be read only '
            "once. Pass data that can be read twice, or the means as arrays by address."
        )
    whole = replace(selection, reduction=AS_COMPUTED, derivatives=NONE)
    specs = data_specs(model, feed, whole)
    compute = pass_for(model, specs, whole, feed.first())
    gatherer, rows = Gatherer(compute.plan), 0
    for batch in feed.batches():
        gatherer.add(batch.row, compute(batch))
        rows = batch.row + batch.rows
    stored = decode_all(compute.plan, rows, gatherer.to_json())
    statistics = derive_statistics(compute.plan, stored)
    shapes = {value.address: value.shape for value in compute.plan.values}
    means = {
        name: known.mean.reshape(
            [-1 if axis == known.axis else 1 for axis in range(1, len(shapes[name]))]
        )
        for name, known in statistics.items()
    }
    found = replace(derivatives, baseline=means, means=True)
    return replace(selection, derivatives=found)


class PlannedPass:
    """A model's forward pass that ends with the last of the planned values.

    It is compiled at the first batch of a shape; on PyTorch it runs eagerly. It
    computes stored values, not their aliases. With `joined`, it also returns the
    output, at `fusion/out`, of each join that is rebuildable from its branches. With
    gradients, it runs the model to its end and back to the values. Several threads may
    use it.
    """

    def __init__(self, plan: Plan, step: PlannedStep) -> None:
        self.plan = plan
        self._step = step
        self._sizes = {value.address: value.shape[1:] for value in plan.stored}

    def __call__(self, batch: Batch) -> Arrays:
        """Returns the values of one batch: see `begin`."""
        return self.begin(batch)()

    def owned(self, batch: Batch) -> Arrays:
        """Returns the values of one batch in memory that nothing else changes."""
        inputs = [x for x in keras.tree.flatten(batch.inputs) if x is not None]
        return {
            name: np.array(array) if may_change(array, inputs) else array
            for name, array in self(batch).items()
        }

    def tensors(self, batch: Batch) -> Tensors:
        """Returns the values of one batch as tensors of the backend."""
        return self._step.tensors(batch)

    def begin(self, batch: Batch) -> Callable[[], Arrays]:
        """Begins the pass of a batch: see `tracing.collect.begin`.

        `overflowed` of the arrays counts the numbers that became infinite, if some are
        narrowed; `lengths` has the true sizes, if some are padded.
        """
        finish = self._step.begin(batch)
        return lambda: self._finished(finish(), batch)

    def _finished(self, arrays: Arrays, batch: Batch) -> Arrays:
        for name, sizes in self._sizes.items():
            if arrays[name].shape != (batch.rows, *sizes):
                self._check_shape(name, arrays[name].shape, batch)
        if self.plan.padded:
            true_sizes = [
                arrays[name].shape[axis]
                for name, axes in self.plan.padded.items()
                for axis in axes
            ]
            lengths = np.array(true_sizes, np.int32)
            arrays[address.LENGTHS] = np.tile(lengths, (batch.rows, 1))
            for name in self.plan.padded:
                arrays[name] = pad_to(arrays[name], self._sizes[name])
        return arrays

    def _check_shape(self, name: str, shape: tuple[int, ...], batch: Batch) -> None:
        planned = (batch.rows, *self._sizes[name])
        padded = self.plan.padded.get(name, ())
        if len(shape) == len(planned) and all(
            n is None or n == size or (axis in padded and n > size)
            for axis, (n, size) in enumerate(zip(planned, shape, strict=True))
        ):
            return
        advice = (
            "All rows of a value need one shape: pad the data to one size, or pass "
            "pad=True, or pad=512, the largest size, for data that can be read only "
            "once."
        )
        if padded:
            advice = "Pass the largest size as `pad=`."
        if self.plan.reduce is not None:
            advice += " `reduce` has to keep the rows."
        raise DataError(
            f"{name} has another shape than planned in the batch that begins at row "
            f"{batch.row}. Expected {'at most ' if padded else ''}{planned}. Received "
            f"{shape}. {advice}"
        )
