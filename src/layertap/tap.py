"""The tap: the compiled pass that returns just the planned values."""

from typing import Any

import keras
from numpy.typing import NDArray

from layertap import address, listening
from layertap.errors import DataError
from layertap.feed import Batch
from layertap.plans import Plan
from layertap.reducing import AS_COMPUTED, Reduction

Arrays = dict[str, NDArray[Any]]


class Tap:
    """A model's forward pass that ends with the last of the planned values.

    Compiled at the first batch; on PyTorch it runs eagerly. The model is not changed.

    Args:
        model: The model.
        plan: Its plan. Only what is stored is computed, not the aliases.
        reduction: The reduction that it was planned with.
        joined: Also return each whole join's own output, under `fusion/out`.
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
        branches: dict[str, dict[int, str]] = {}
        outputs: dict[str, dict[int, str]] = {}
        for value in plan.stored:
            path, side, index = address.parse(value.address)
            wanted = branches if side == "in" else outputs
            wanted.setdefault(path, {})[index] = value.address
        if joined:
            for join in plan.joins:
                name = address.output(join.path)
                outputs.setdefault(join.path, {}).setdefault(0, name)
        self._step = listening.tapped(
            model, branches, outputs, lambda found: reduction.applied(found, plan)
        )

    def __call__(self, batch: Batch) -> Arrays:
        """Returns the values of one batch by address, one row for each of its rows.

        If some are narrowed, `overflowed` is there too: how many numbers of each row
        became infinite by it.

        Raises:
            DataError: If a value has another shape than was planned.
            ListeningError: If a planned value was not computed.
        """
        found = self._step(batch.inputs)
        for value in self.plan.stored:
            array = found[value.address]
            planned = (batch.rows, *value.shape[1:])
            if len(array.shape) != len(planned) or any(
                n is not None and n != size
                for n, size in zip(planned, array.shape, strict=True)
            ):
                told = "pad the data to one size."
                if self.plan.reduce is not None:
                    told += " And `reduce` has to keep the rows."
                raise DataError(
                    f"{value.address} has shape {array.shape} in the batch that begins "
                    f"at row {batch.row}; planned was {planned}. All rows of a value "
                    f"must have one shape: {told}"
                )
        return found
