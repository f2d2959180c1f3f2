"""A straight line through a model, from a baseline to some of its values."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from layertap.effects.gradients import OF, Answer, TargetStep, gradients
from layertap.effects.target import Target
from layertap.inputs.convert import Batch
from layertap.tracing.forward_pass import Arrays, Change, Keep, Tensor, Tensors
from layertap.tracing.keras_internals import unassigned

Array = NDArray[Any]


class Line:
    """The straight line from a baseline to some values, which go along it together.

    `values` of its methods are those at its end, `start` the baseline. Those of a head
    are its inputs: with `from_inputs`, they are not passed twice.
    """

    def __init__(
        self,
        model: keras.Model,
        names: Sequence[str],
        target: Target,
        answer: Answer,
        *,
        from_inputs: bool,
    ) -> None:
        self.names = names
        self._from_inputs = from_inputs
        self._parts = model, target, answer
        self._evaluated = TargetStep(model, target, self._evaluate)
        self._integrated = TargetStep(model, target, self._integrate)

    def evaluate(
        self, batch: Batch, at: Array, values: Arrays, start: Arrays
    ) -> tuple[Array, Arrays]:
        """Returns the target of each row at its place, and the gradients.

        `at` is 0 at the baseline, and 1 at the values.
        """
        places: Any = {"at": at.astype(np.float32)}
        found = self._evaluated.begin(batch, **places, **self._given(values, start))()
        return found.pop(OF).astype(np.float64), found

    def ends(self, batch: Batch, values: Arrays, start: Arrays) -> tuple[Array, Array]:
        """Returns the target of each row at the baseline, and at the values."""
        places = np.zeros(batch.rows), np.ones(batch.rows)
        first, last = (self.evaluate(batch, at, values, start)[0] for at in places)
        return first, last

    def integrate(
        self, batch: Batch, rule: tuple[Array, Array], values: Arrays, start: Arrays
    ) -> tuple[tuple[Array, Array], Arrays]:
        """Returns the target at both ends, and the mean gradients of a rule's nodes."""
        nodes, shares = (part.astype(np.float32) for part in rule)
        places: Any = {"nodes": nodes, "shares": shares}
        found = self._integrated.begin(batch, **places, **self._given(values, start))()
        first, last = (found.pop(name).astype(np.float64) for name in _ENDS)
        return (first, last), found

    def _given(self, values: Arrays, start: Arrays) -> dict[str, Any]:
        return {"values": {} if self._from_inputs else values, "start": start}

    def _evaluate(self, inputs: Any, arrays: Mapping[str, Any], keep: Keep) -> Tensors:
        model, target, answer = self._parts
        change = _moved(self._ways(inputs, arrays), arrays["at"])
        found, values = gradients(model, target, answer, inputs, arrays, change, keep)
        return {**found, OF: values[OF]}

    def _integrate(self, inputs: Any, arrays: Mapping[str, Any], keep: Keep) -> Tensors:
        model, target, answer = self._parts
        ways = self._ways(inputs, arrays)
        ends = {}
        for name, at in _ENDS.items():
            with unassigned():
                outputs, _, _ = answer(inputs, _moved(ways, at), keep)
            ends[name] = target.of_rows(model, outputs, arrays)

        def add(node: Tensor, means: Tensors) -> Tensors:
            share, place = (arrays[name][node] for name in ("shares", "nodes"))
            change = _moved(ways, place)
            found, _ = gradients(model, target, answer, inputs, arrays, change, keep)
            return {
                name: mean + ops.cast(share, mean.dtype) * _wide(found[name])
                for name, mean in means.items()
            }

        zeros = {name: ops.zeros_like(_wide(way[1])) for name, way in ways.items()}
        count = ops.shape(arrays["nodes"])[0]
        return {**ops.fori_loop(0, count, add, zeros), **ends}

    def _ways(self, inputs: Any, arrays: Mapping[str, Any]) -> dict[str, "_Way"]:
        """Returns where each value begins, and the difference at the end."""
        starts, values = arrays["start"], arrays["values"] or inputs
        return {n: (starts[n], values[n] - starts[n]) for n in self.names}


_Way = tuple[Tensor, Tensor]
_ENDS = {"first": 0.0, "last": 1.0}


def _moved(ways: Mapping[str, _Way], at: Any) -> Change:
    """Puts values on their line: all rows at one place, or each row at its own.

    They are those that were computed before: a compiled pass begins with them.
    """

    def change(name: str, tensor: Tensor) -> Tensor:
        start, difference = ways[name]
        share = at if isinstance(at, float) else ops.cast(at, difference.dtype)
        if len(getattr(at, "shape", ())) == 1:
            share = ops.reshape(share, (-1, *(1 for _ in difference.shape[1:])))
        moved = start + share * difference
        return moved if moved.dtype == tensor.dtype else ops.cast(moved, tensor.dtype)

    return change


def _wide(tensor: Tensor) -> Tensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return tensor if dtype in ("float32", "float64") else ops.cast(tensor, "float32")
