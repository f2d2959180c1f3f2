"""The gradients of the loss of a batch, with respect to values and to variables."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from layertap.core import tables
from layertap.effects.gradients import whole_model
from layertap.effects.target import build_loss
from layertap.errors import DataError, OptionError
from layertap.inputs.convert import Batch
from layertap.tracing.backends import current_backend
from layertap.tracing.collect import begin
from layertap.tracing.forward_pass import Change, Keep, Tensor, Tensors, Wanted
from layertap.tracing.keras_internals import private
from layertap.tracing.reuse.memo import tracing

_LOSS = "loss"


def batch_loss_gradients(
    model: keras.Model,
    batch: Batch,
    points: Collection[str],
    variables: Mapping[str, Any],
) -> dict[str, NDArray[Any]]:
    """Differentiates the loss that `fit` minimizes, at inference.

    The gradients are by the addresses of values and by the names of variables. Those
    that no differentiable way leads from are left out.
    """
    answer = whole_model(model, Wanted((), (), random=True), points)
    names = {id(variable): name for name, variable in variables.items()}

    def run(parts: Any, keep: Keep) -> Tensors:
        inputs, labels, ones = parts

        def compute(mark: Change) -> tuple[Tensor, Tensors]:
            def marked(name: str, tensor: Tensor) -> Tensor:
                return mark(name, tensor) if "float" in _dtype(tensor) else tensor

            values = [
                (v, mark(names[id(v)], v.value) if id(v) in names else v.value)
                for v in model.variables
            ]
            # Keras computes the losses that layers add from the variables in a scope.
            with keras.StatelessScope(values, collect_losses=True):
                outputs, _, _ = answer(inputs, marked, keep)
                loss = _loss_of_batch(model, inputs, labels, outputs)
            # JAX leaves constant derivatives out: these are not known to be constant.
            return loss * ops.cast(ones[0], loss.dtype), {_LOSS: loss}

        with tracing(model):
            found, others = current_backend().differentiate(compute)
        # On a GPU, a step returns at least one tensor.
        return {**found, **others}

    step = current_backend().compile(run, model, lambda: None)
    ones = np.ones(batch.rows, np.float32)
    arrays = begin(step, (batch.inputs, batch.labels, ones))()
    # Which may be memory of the backend.
    return {n: array.copy() for n, array in arrays.items() if n != _LOSS}


def _loss_of_batch(
    model: keras.Model, inputs: Any, labels: Any, outputs: Any
) -> Tensor:
    """Returns the loss of a batch: the compiled losses, and those that layers add."""
    compiled = private(model, "_compile_loss") if model.compiled else None
    if compiled is None and not model.losses:
        raise OptionError(
            f"{model.name!r} has no loss. Expected a compiled model. Compile it, as in "
            'model.compile(loss="mse").'
        )
    if compiled is not None and labels is None:
        raise DataError(
            f"The loss of {model.name!r} has no labels. Expected an array for each "
            "output. Received None."
        )
    if compiled is not None:

        def built(*parts: Any) -> None:
            # The metrics of the model stay as they are.
            with keras.StatelessScope():
                compiled(*parts)

        build_loss(built, labels, outputs)
    # The method of a subclass may lack the argument.
    known = inspect.signature(model.compute_loss).parameters
    training = {"training": False} if "training" in known else {}
    loss = model.compute_loss(x=inputs, y=labels, y_pred=outputs, **training)
    if len(loss.shape):
        raise OptionError(
            f"The loss of {model.name!r} is not one number. Expected losses that "
            "reduce it, such as reduction='sum_over_batch_size'. Received numbers of "
            f"shape {tables.shape(tuple(loss.shape))}."
        )
    return loss


def _dtype(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))
