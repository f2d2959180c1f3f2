"""The tap: the compiled pass that returns just the planned values."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core import address
from layertap.core.plan import Join, Plan
from layertap.core.values import LENGTHS
from layertap.errors import DataError
from layertap.inputs.feed import Batch
from layertap.planning.padding import pad_to
from layertap.planning.reduction import AS_COMPUTED, Reduction
from layertap.tracing.collect import tapped

Arrays = dict[str, NDArray[Any]]


def rebuilt(join: Join) -> bool:
    """Whether a join's output can be made of its branches as they are stored."""
    joins = join.kind in ("concatenate", "stack") and join.axis is not None
    return join.whole and joins


class Tap:
    """A model's forward pass that ends with the last of the planned values.

    Compiled at the first batch; on PyTorch it runs eagerly. The model is not changed.

    Args:
        model: The model.
        plan: Its plan. Only what is stored is computed, not the aliases.
        reduction: The reduction that it was planned with.
        joined: Also return the own output, under `fusion/out`, of each join that its
            branches give again: see `rebuilt`.
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        reduction: Reduction = AS_COMPUTED,
        *,
        joined: bool = False,
    ) -> None:
        self.plan = plan
        self._sizes = {value.address: value.shape[1:] for value in plan.stored}
        branches: dict[str, dict[int, str]] = {}
        outputs: dict[str, dict[int, str]] = {}
        for value in plan.stored:
            path, side, index = address.parse(value.address)
            wanted = branches if side == "in" else outputs
            wanted.setdefault(path, {})[index] = value.address
        if joined:
            for join in filter(rebuilt, plan.joins):
                name = address.output(join.path)
                outputs.setdefault(join.path, {}).setdefault(0, name)
        self._step = tapped(
            model,
            branches,
            outputs,
            {join.kind for join in plan.joins},
            lambda found: reduction.apply(found, plan),
        )

    def __call__(self, batch: Batch) -> Arrays:
        """Returns the values of one batch: see `begin`."""
        return self.begin(batch)()

    def begin(self, batch: Batch) -> Callable[[], Arrays]:
        """Begins the pass of one batch.

        Returns:
            What gives the values of the batch, by address, one row for each of its
            rows. To be called once, before that of the next batch, which may have been
            begun by then. They may be in the backend's own memory: good until the next
            ones are asked for, and not to be written to.

            If some are narrowed, `overflowed` is there too: how many numbers of each
            row became infinite by it. If some are padded, so is `lengths`: their true
            sizes.

        Raises:
            DataError: If a value has another shape than was planned; by what is
                returned.
            ListeningError: If a planned value was not computed; here, or by what is
                returned.
        """
        begun = self._step(batch.inputs)
        return lambda: self._ended(begun(), batch)

    def _ended(self, found: Arrays, batch: Batch) -> Arrays:
        for name, sizes in self._sizes.items():
            if found[name].shape != (batch.rows, *sizes):
                self._check(name, found[name].shape, batch)
        if self.plan.padded:
            true_sizes = [
                found[name].shape[axis]
                for name, axes in self.plan.padded.items()
                for axis in axes
            ]
            found[LENGTHS] = np.tile(np.array(true_sizes, np.int32), (batch.rows, 1))
            for value in self.plan.stored:
                if value.address in self.plan.padded:
                    found[value.address] = pad_to(found[value.address], value)
        return found

    def _check(self, name: str, shape: tuple[int, ...], batch: Batch) -> None:
        planned = (batch.rows, *self._sizes[name])
        padded = self.plan.padded.get(name, ())
        if len(shape) == len(planned) and all(
            n is None or n == size or (axis in padded and n > size)
            for axis, (n, size) in enumerate(zip(planned, shape, strict=True))
        ):
            return
        told = (
            "All rows of a value must have one shape: pad the data to one size, or "
            "pass pad=True, or for data that come only once the longest, pad=512."
        )
        if padded:
            told = "Pass the longest that there is as `pad=`."
        if self.plan.reduce is not None:
            told += " And `reduce` has to keep the rows."
        raise DataError(
            f"{name} has shape {shape} in the batch that begins at row "
            f"{batch.row}; planned was {'at most ' if padded else ''}{planned}. {told}"
        )
