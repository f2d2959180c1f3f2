"""The number of each row that is differentiated: a loss, an output, or a function."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from layertap.core import tables
from layertap.errors import DataError, LayertapError, OptionError
from layertap.inputs.convert import Batch
from layertap.tracing.forward_pass import Tensor
from layertap.tracing.keras_internals import CompileLoss, masking, private
from layertap.tracing.reuse.function_fingerprint import function_fingerprint

Of = Literal["loss"] | int | Callable[[Any], Tensor]

_LOSS = "loss"
# The arrays of a batch that a loss needs.
_LABELS, _WEIGHTS = "labels", "sample_weight"


@dataclass(frozen=True, eq=False)
class Target:
    """One number for each row, selected by `gradients=` or `attributions=`.

    The loss of a row is the compiled loss of a batch of that row alone, with its sample
    weight. Losses that layers add are left out.
    """

    of: Any
    # The argument that selected it, for messages.
    argument: str = "of"
    # By the ids of the arguments of `compile`: these, and the loss that was built.
    _built: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        index = isinstance(self.of, int | np.integer) and not isinstance(self.of, bool)
        named = isinstance(self.of, str) and self.of == _LOSS
        if (index and self.of >= 0) or named or callable(self.of):
            return
        raise OptionError(
            f"`{self.argument}` is invalid. Expected 'loss', the index of an output "
            "such as 3, or a function of the outputs that returns one number for each "
            f"row. Received {self.of!r}."
        )

    @property
    def name(self) -> str:
        """The target as a store records it: a function by its name and a digest."""
        if callable(self.of):
            return function_fingerprint(self.of)
        return str(self.of)

    @property
    def function(self) -> Any:
        """The function of the user, or None."""
        return self.of if callable(self.of) else None

    def arrays(self, batch: Batch) -> dict[str, Any]:
        """Returns the arrays of a batch that the numbers need besides the outputs."""
        if self.of != _LOSS:
            return {}
        if batch.labels is None:
            raise DataError(
                "The loss needs labels, which the data don't have. Pass (x, y), or a "
                "function of the outputs instead of 'loss'."
            )
        found = {_LABELS: batch.labels, _WEIGHTS: batch.sample_weight}
        return {name: part for name, part in found.items() if part is not None}

    def check(self, model: keras.Model) -> None:
        """Raises if the loss of a model is the target, and there is none."""
        if self.of == _LOSS:
            compiled_loss(model)

    def of_rows(
        self, model: keras.Model, outputs: Any, arrays: Mapping[str, Any]
    ) -> Tensor:
        """Returns the number of each row, at least in 32 bits: a tensor (rows,)."""
        if self.of == _LOSS:
            numbers = self._losses(model, outputs, arrays)
        elif callable(self.of):
            numbers = self._called(outputs)
        else:
            numbers = self._picked(outputs)
        return numbers if _wide(numbers) else ops.cast(numbers, "float32")

    def _losses(
        self, model: keras.Model, outputs: Any, arrays: Mapping[str, Any]
    ) -> Tensor:
        known = compiled_loss(model)
        given = known["loss"], known.get("loss_weights")
        key = tuple(map(id, given))
        if key not in self._built:
            names = getattr(model, "output_names", None)
            loss = CompileLoss(*given, output_names=names)
            build_loss(loss, arrays[_LABELS], outputs)
            self._built[key] = given, loss
        _, loss = self._built[key]
        numbers = _loss_of_rows(loss, outputs, arrays)
        if len(numbers.shape) != 1:
            raise OptionError(
                f"The loss of {model.name!r} is not one number. Expected losses that "
                "reduce it, such as reduction='sum_over_batch_size'. Received numbers "
                f"of shape {tables.shape(tuple(numbers.shape))}."
            )
        return numbers

    def _called(self, outputs: Any) -> Tensor:
        try:
            numbers = self.of(outputs)
        except LayertapError:
            raise
        except Exception as error:  # A function may raise anything.
            raise OptionError(
                f"`{self.argument}` does not accept the outputs of the model. It "
                f"raised {type(error).__name__}: {error}"
            ) from error
        shape = tuple(getattr(numbers, "shape", ()))
        if len(shape) == 2 and shape[1] == 1:
            return ops.squeeze(numbers, axis=1)
        rows = keras.tree.flatten(outputs)[0].shape[0]
        if len(shape) != 1 or (None not in (rows, shape[0]) and rows != shape[0]):
            raise OptionError(
                f"`{self.argument}` does not return one number for each row. Expected "
                "a tensor of shape (rows,). Received "
                f"{tables.shape(shape) if shape else numbers}. Take the sum over the "
                "other axes, say."
            )
        return numbers

    def _picked(self, outputs: Any) -> Tensor:
        leaves = keras.tree.flatten(outputs)
        shape = tuple(leaves[0].shape)
        if len(leaves) == 1 and len(shape) == 2 and int(self.of) < shape[1]:
            return leaves[0][:, int(self.of)]
        received = ", ".join(tables.shape(tuple(leaf.shape)) for leaf in leaves)
        raise OptionError(
            f"`{self.argument}` is not an index of the outputs. Expected a model that "
            f"returns (rows, more than {self.of}). Received one that returns "
            f"{received}. Pass a function of the outputs, such as "
            "lambda outputs: outputs[:, 0, 3]."
        )


def stand_in(outputs: Any) -> Tensor:
    """Returns a number for each row that follows from all outputs, without labels."""
    total: Any = 0.0
    for leaf in keras.tree.flatten(outputs):
        if "float" in str(leaf.dtype):
            wide = ops.cast(leaf, "float32")
            total += ops.sum(wide, axis=tuple(range(1, len(wide.shape))))
    return total


def compiled_loss(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments that a model was compiled with, among them a loss."""
    # The objects themselves: a user's own function has no configuration.
    known = (
        private(private(model, "_compile_config"), "config") if model.compiled else {}
    )
    if not known.get("loss"):
        raise OptionError(
            f"{model.name!r} was not compiled with a loss. Compile it with one, such "
            'as loss="sparse_categorical_crossentropy".'
        )
    return known


def _loss_of_rows(loss: Any, outputs: Any, arrays: Mapping[str, Any]) -> Tensor:
    """Returns a loss of each row, as that of a batch of one row."""
    labels, weights = arrays[_LABELS], arrays.get(_WEIGHTS)
    masks = [masking.get_keras_mask(leaf) for leaf in keras.tree.flatten(outputs)]

    def of_row(parts: Any) -> Tensor:
        row, kept = keras.tree.map_structure(lambda x: ops.expand_dims(x, 0), parts)
        kept = iter(kept)
        for leaf, mask in zip(keras.tree.flatten(row[1]), masks, strict=True):
            if mask is not None:
                masking.set_keras_mask(leaf, next(kept))
        return loss(*row)

    row = (labels, outputs) if weights is None else (labels, outputs, weights)
    parts = row, [mask for mask in masks if mask is not None]
    # The metrics that a loss of several outputs updates are dropped.
    with keras.StatelessScope(initialize_variables=False):
        try:
            return ops.vectorized_map(of_row, parts)
        except Exception:  # What can't be vectorized fails in any way.
            return ops.map(of_row, parts)


def build_loss(loss: Callable[..., Any], labels: Any, outputs: Any) -> None:
    """Builds a loss with a row of zeros, outside the trace.

    It creates metrics, whose variables must not be of the trace. Each thread of Keras
    and of the backends has a trace of its own.
    """

    def zeros(tensor: Tensor) -> Any:
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        # Another thread may have no 64 bits on JAX.
        dtype = dtype.replace("64", "32")
        return ops.zeros([1, *(size or 1 for size in tensor.shape[1:])], dtype)

    with ThreadPoolExecutor(1) as thread:
        rows = thread.submit(keras.tree.map_structure, zeros, (labels, outputs))
        thread.submit(loss, *rows.result()).result()


def _wide(tensor: Tensor) -> bool:
    return str(keras.backend.standardize_dtype(tensor.dtype)) in ("float32", "float64")
