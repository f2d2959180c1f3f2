"""The compiled pass that returns exactly the planned values."""

from collections.abc import Callable

import keras
import numpy as np

from layertap.core import address
from layertap.core.plan import Plan
from layertap.errors import DataError
from layertap.inputs.convert import Batch
from layertap.planning.folded_rows import unfold
from layertap.planning.padding import pad_to
from layertap.planning.planner import BatchSpecs, Selection, plan_for_batch
from layertap.planning.reduction import AS_COMPUTED, Reduction
from layertap.tracing.collect import begin, may_change, tapped
from layertap.tracing.forward_pass import Arrays, Tensors, Wanted
from layertap.tracing.reuse.memo import remembered


def planned_pass(
    model: keras.Model,
    plan: Plan,
    reduction: Reduction = AS_COMPUTED,
    *,
    joined: bool = False,
) -> "PlannedPass":
    """Returns the pass of a plan: that of an unchanged model is compiled once."""
    key = "pass", repr(plan), reduction, joined
    return remembered(
        model,
        key,
        lambda: PlannedPass(model, plan, reduction, joined),
        calls=reduction.reduce,
    )


def pass_for(
    model: keras.Model, specs: BatchSpecs, selection: Selection, first: Batch
) -> "PlannedPass":
    """Returns the pass of a selection for input specs, and plans it with a batch."""

    def make() -> tuple[PlannedPass, bool]:
        plan, for_all_data = plan_for_batch(model, specs, selection, first)
        return planned_pass(model, plan, selection.reduction), for_all_data

    made, _ = remembered(
        model,
        ("pass", selection.key, repr(specs)),
        make,
        calls=selection.reduction.reduce,
        keep=lambda made: made[1],
    )
    return made


class PlannedPass:
    """A model's forward pass that ends with the last of the planned values.

    It is compiled at the first batch of a shape; on PyTorch it runs eagerly. It
    computes stored values, not their aliases. With `joined`, it also returns the
    output, at `fusion/out`, of each join that is rebuildable from its branches.
    Several threads may use it.
    """

    def __init__(
        self, model: keras.Model, plan: Plan, reduction: Reduction, joined: bool
    ) -> None:
        self.plan = plan
        self._sizes = {value.address: value.shape[1:] for value in plan.stored}
        names, folded = list(self._sizes), dict(plan.folded)
        for join in plan.joins:
            if joined and join.rebuildable:
                names.append(address.output(join.path))
                if join.addresses[0] in folded:
                    folded[names[-1]] = folded[join.addresses[0]]

        def finish(tensors: Tensors) -> Tensors:
            for name in tensors.keys() & folded.keys():
                tensors[name] = unfold(tensors[name], *folded[name])
            return reduction.apply(tensors, plan)

        kinds = {join.kind for join in plan.joins}
        wanted = Wanted(names, kinds, bool(plan.random))
        self._step = tapped(model, wanted, finish)

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
        return self._step(batch.inputs)

    def begin(self, batch: Batch) -> Callable[[], Arrays]:
        """Begins the pass of a batch: see `tracing.collect.begin`.

        `overflowed` of the arrays counts the numbers that became infinite, if some are
        narrowed; `lengths` has the true sizes, if some are padded.
        """
        finish = begin(self._step, batch.inputs, batch.full)
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
