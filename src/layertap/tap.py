"""The tap: the compiled pass that returns just the planned values."""

from typing import Any

import keras
from numpy.typing import NDArray

from layertap import address, listening
from layertap.errors import DataError
from layertap.feed import Batch
from layertap.plans import Join, Plan

Arrays = dict[str, NDArray[Any]]


def rebuilt(join: Join) -> bool:
    """Whether a join's output can be made of its branches as they are stored."""
    return join.whole and join.kind in ("concatenate", "stack")


class Tap:
    """A model's forward pass that ends with the last of the planned values.

    Compiled at the first batch; on PyTorch it runs eagerly. The model is not changed.

    Args:
        model: The model.
        plan: Its plan. Only what is stored is computed, not the aliases.
        joined: Also return the own output, under `fusion/out`, of each join that its
            branches give again: see `rebuilt`.
    """

    def __init__(self, model: keras.Model, plan: Plan, *, joined: bool = False) -> None:
        self.plan = plan
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
        kinds = {join.kind for join in plan.joins}
        self._step = listening.tapped(model, branches, outputs, kinds)

    def __call__(self, batch: Batch) -> Arrays:
        """Returns the values of one batch by address, one row for each of its rows.

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
                raise DataError(
                    f"{value.address} has shape {array.shape} in the batch that begins "
                    f"at row {batch.row}; planned was {planned}. All rows of a value "
                    "must have one shape: pad the data to one size."
                )
        return found
