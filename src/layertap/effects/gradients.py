"""The compiled pass that returns values, and gradients with respect to them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from layertap.core import address
from layertap.effects.target import Target
from layertap.inputs.convert import Batch
from layertap.tracing.backends import current_backend
from layertap.tracing.collect import Finish
from layertap.tracing.forward_pass import (
    Arrays,
    Change,
    Keep,
    Step,
    Tensor,
    Tensors,
    Wanted,
)
from layertap.tracing.keras_internals import unassigned
from layertap.tracing.model_structure import layers_of
from layertap.tracing.reuse.memo import tracing
from layertap.tracing.write_pass import WritePass

# Arrays that a step receives besides those of its target: the weight of each row, and
# its scale. `OF` names the target of each row among the results.
_WEIGHTS, _SCALE, OF = "weights", "scale", "of"

# Small gradients in float16 would become zero. A target is scaled by the first of these
# that makes nothing infinite; powers of two change no digit.
_SCALES = (2.0**15, 2.0**10, 2.0**5, 1.0)

# The share by which values are enlarged, to see whether a target changes with them.
_SMALL = 1e-3
# The share of a target that may be rounding.
_ROUNDING = 32 * 2.0**-23

# Runs a model whose values a function changes. Returns its outputs, further values, and
# the addresses of those that it could not change.
Answer = Callable[[Any, Change, Keep], tuple[Any, Tensors, set[str]]]


# Computes the results of a batch from the inputs of a model and further arrays.
Run = Callable[[Any, Mapping[str, Any], Keep], Tensors]


class TargetStep:
    """A compiled step that differentiates a target of a model.

    Args:
        model: The model.
        target: The number of each row.
        run: Computes the results, with the arrays that `begin` received.
    """

    def __init__(self, model: keras.Model, target: Target, run: Run) -> None:
        self.target = target
        half = (getattr(x, "compute_dtype", "") == "float16" for x in layers_of(model))
        self._scales = _SCALES if any(half) else (1.0,)

        def traced(batch: Any, keep: Keep) -> Tensors:
            with tracing(model):
                inputs, arrays = batch
                return run(inputs, arrays, keep)

        self.step: Step = current_backend().compile(traced, model, lambda: None)

    def begin(
        self,
        batch: Batch,
        weights: NDArray[np.float32] | None = None,
        **arrays: Any,
    ) -> Callable[[], Arrays]:
        """Begins the pass of a batch: see `tracing.collect.begin`.

        Args:
            batch: The batch, with labels if the target needs them.
            weights: The weight of each row, by default 1.
            arrays: Further arrays for `run`.
        """
        backend = current_backend()
        # These may have one row for all.
        full = None if arrays else batch.full
        given = self._given(batch, weights, arrays)
        first = backend.begin(self.step, next(given), full)

        def finish() -> Arrays:
            found = first()
            for smaller in given:
                if all(np.isfinite(array).all() for array in found.values()):
                    break
                found = backend.begin(self.step, smaller, full)()
            return found

        return finish

    def returned(self, batch: Batch) -> set[str]:
        """Returns the names of its results, if possible without computing them."""
        given = next(self._given(batch, None, {}))
        return set(current_backend().returned(self.step, given))

    def _given(
        self, batch: Batch, weights: NDArray[np.float32] | None, arrays: Any
    ) -> Iterator[Any]:
        """Yields what the step receives for a batch, with one scale after another."""
        if weights is None:
            weights = np.ones(batch.rows, np.float32)
        arrays = {**self.target.arrays(batch), **arrays}
        for scale in self._scales:
            scaled = {} if scale == 1 else {_SCALE: np.full_like(weights, scale)}
            yield batch.inputs, {**arrays, _WEIGHTS: weights * scale, **scaled}


class GradientStep(TargetStep):
    """A compiled step that returns values, and gradients of a target.

    Args:
        model: The model.
        target: The number of each row.
        answer: Runs the model, or a part of it.
        finish: Changes the tensors at the end of the pass: see `tapped`.
        move: Returns the change of each value from the arrays of a batch; by default
            values stay as they are.
    """

    def __init__(
        self,
        model: keras.Model,
        target: Target,
        answer: Answer,
        finish: Finish = dict,
        move: Callable[[Mapping[str, Any]], Change] | None = None,
    ) -> None:
        # The values that could not be changed in the last trace.
        self.unreached: set[str] = set()

        def run(inputs: Any, arrays: Mapping[str, Any], keep: Keep) -> Tensors:
            def traced(inputs: Any, change: Change, keep: Keep) -> Any:
                outputs, values, self.unreached = answer(inputs, change, keep)
                return outputs, values, self.unreached

            change = move(arrays) if move else lambda name, tensor: tensor
            found = gradients(model, target, traced, inputs, arrays, change, keep)
            derivatives, values = found
            named = {address.effect(n, "gradient"): t for n, t in derivatives.items()}
            return finish(values | named)

        super().__init__(model, target, run)


def gradients(
    model: keras.Model,
    target: Target,
    answer: Answer,
    inputs: Any,
    arrays: Mapping[str, Any],
    change: Change,
    keep: Keep,
) -> tuple[Tensors, Tensors]:
    """Returns the gradients with respect to changed values, and the collected values.

    The sum of the target over the rows, each with a weight, is differentiated once.
    `OF` names the target among the values.
    """

    def compute(mark: Change) -> tuple[Tensor, Tensors]:
        def marked(name: str, tensor: Tensor) -> Tensor:
            return mark(name, change(name, tensor))

        with unassigned():
            outputs, values, _ = answer(inputs, marked, keep)
        numbers = target.of_rows(model, outputs, arrays)
        weights = ops.cast(arrays[_WEIGHTS], numbers.dtype)
        return ops.sum(numbers * weights), {**values, OF: numbers}

    derivatives, values = current_backend().differentiate(compute)
    scale = arrays.get(_SCALE)
    return {n: _unscaled(tensor, scale) for n, tensor in derivatives.items()}, values


def hidden(
    model: keras.Model, target: Target, wanted: Wanted, batch: Batch
) -> set[str]:
    """Returns the values that a target depends on although their gradient is zero.

    `stop_gradient` hides a dependence. A small change of the value shows it.
    """
    names = list(wanted.addresses)
    nothing = Wanted((), wanted.kinds, wanted.random)
    step = GradientStep(
        model, target, whole_model(model, nothing, names), move=_enlarged
    )

    def numbers(enlarged: str, by: float) -> NDArray[Any]:
        share = {name: np.zeros(batch.rows, np.float32) for name in names}
        share[enlarged] += by
        return step.begin(batch, share=share)()[OF]

    def depends(name: str) -> bool:
        more, less = numbers(name, _SMALL), numbers(name, -_SMALL)
        size = np.max(np.abs([more, less, unchanged]), axis=0)
        slope, bend = np.abs(more - less), np.abs(more + less - 2 * unchanged)
        # At a minimum, both changes are alike.
        return bool((slope > np.maximum(_ROUNDING * size, bend)).any())

    unchanged = numbers(names[0], 0.0)
    return {name for name in names if depends(name)}


def _enlarged(arrays: Mapping[str, Any]) -> Change:
    """Enlarges values by a share of them."""

    def change(name: str, tensor: Tensor) -> Tensor:
        share = ops.cast(arrays["share"][name], tensor.dtype)
        return tensor * (1 + ops.reshape(share, (-1, *(1 for _ in tensor.shape[1:]))))

    return change


def whole_model(model: keras.Model, wanted: Wanted, points: Collection[str]) -> Answer:
    """Returns the run of a model that changes points, and returns wanted values."""
    written = Wanted(points, wanted.kinds, wanted.random)

    def answer(inputs: Any, change: Change, keep: Keep) -> Any:
        pass_ = WritePass(model, written, change, wanted.addresses, keep)
        return pass_.run_model(inputs), pass_.collected, pass_.missing

    return answer


def head_alone(head: keras.Model, points: Collection[str]) -> Answer:
    """Returns the run of a head, see `layertap.split`, that changes its inputs."""

    def answer(inputs: Any, change: Change, keep: Keep) -> Any:
        moved = {n: change(n, x) if n in points else x for n, x in inputs.items()}
        # Its own `call`: around it, Keras spends a third of a small head's time.
        return head.call(moved, training=False), {}, set()

    return answer


def _unscaled(gradient: Tensor, scale: Tensor | None) -> Tensor:
    """Returns a gradient as it is without the scale; that in float16 as float32."""
    dtype = str(keras.backend.standardize_dtype(gradient.dtype))
    if dtype == "float16":
        gradient = ops.cast(gradient, "float32")
    if scale is None:
        return gradient
    return gradient / ops.cast(scale[0], gradient.dtype)
