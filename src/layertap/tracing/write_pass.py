"""Makes the compiled pass that puts other tensors in the place of a model's values."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras

from layertap.core.address import Side
from layertap.errors import LayertapError, ListeningError
from layertap.tracing.backends import current_backend
from layertap.tracing.collect import CollectPass, record
from layertap.tracing.forward_pass import (
    Arrays,
    Keep,
    Run,
    Step,
    Tensor,
    Tensors,
    Wanted,
    as_is,
    causes,
)
from layertap.tracing.hooks import unrecorded
from layertap.tracing.keras_internals import masking
from layertap.tracing.model_structure import forward, map_arrays
from layertap.tracing.reuse.memo import tracing

# Returns the tensor in the place of a value, by its address.
Change = Callable[[str, Tensor], Tensor]
# The model's inputs, and arrays by address, which `Change` may need.
Written = tuple[Any, dict[str, Tensor]]


class WritingStep:
    """A step that returns the outputs of a model in which values are changed.

    `make_change` receives the arrays of a batch. The step returns the outputs by
    number: see `pack`.
    """

    def __init__(
        self,
        model: keras.Model,
        wanted: Wanted,
        make_change: Callable[[dict[str, Tensor]], Change],
    ) -> None:
        # By the forms of the inputs, on which it may depend.
        self._structures: dict[Any, Any] = {}

        def run(batch: Written, keep: Keep) -> Tensors:
            inputs, arrays = batch
            with tracing(model):
                pass_ = WritePass(model, wanted, make_change(arrays))
                outputs = pass_.outputs(inputs)
            self._structures[_forms(inputs)] = pass_.structure
            return outputs

        self.step: Step = current_backend().compile(run, model, lambda: None)

    def pack(self, inputs: Any, arrays: Arrays) -> Any:
        """Returns outputs in the structure in which the model returns them."""
        forms, numbers = _forms(inputs), itertools.count()
        if forms not in self._structures:
            # TensorFlow traced it for all numbers of rows.
            forms = None, *forms[1:]
        structure = self._structures[forms]
        return map_arrays(lambda leaf: arrays[str(next(numbers))], structure)


def _forms(inputs: Any) -> tuple[Any, ...]:
    """Returns the number of rows, and the sizes and kinds of inputs."""
    leaves = [leaf for leaf in keras.tree.flatten(inputs) if leaf is not None]
    return (
        leaves[0].shape[0],
        *((tuple(x.shape[1:]), "float" in str(x.dtype)) for x in leaves),
    )


class WritePass(CollectPass):
    """A pass that changes the wanted values, and computes the model's outputs."""

    def __init__(self, model: keras.Model, wanted: Wanted, change: Change) -> None:
        super().__init__(wanted, as_is)
        self._model = model
        self._written = wanted
        self._change = change
        self._missing = set(wanted.addresses)
        # That of the outputs, without tensors.
        self.structure: Any = None

    def outputs(self, inputs: Any) -> Tensors:
        """Runs the model, and returns its outputs by number."""
        run = functools.partial(self._run, functools.partial(forward, self._model))
        try:
            record(self, self._written, run, inputs)
        except Exception as error:
            # Keras raises new errors, of the same types, for those that pass through.
            ours = [one for one in causes(error) if isinstance(one, LayertapError)]
            if ours:
                raise ours[-1] from None
            raise
        if self._missing:
            raise ListeningError(
                f"{self._model.name!r} can't have another {min(self._missing)}: it is "
                "an input of the model, a part of a loop, or the model's `call` takes "
                "another way for these inputs. Replace a value that is computed "
                "before or after it."
            )
        return self.values

    def _run(self, run: Run, inputs: Any) -> None:
        outputs = run(inputs)
        flat = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
        self.values = {str(number): tensor for number, tensor in enumerate(flat)}
        self.structure = map_arrays(lambda tensor: 0, outputs)

    def write(
        self, side: Side, path: str, tensors: list[Tensor]
    ) -> list[Tensor] | None:
        """Changes the wanted ones of some tensors; see `Pass`."""
        names = {} if self.loops else self._written.sides[side].get(path, {})
        if not names:
            return None
        tensors = list(tensors)
        for index, name in names.items():
            if index < len(tensors):
                tensors[index] = self._changed(name, tensors[index])
                self._missing.discard(name)
        return tensors

    def _collect(self, *arguments: Any) -> None:
        """Collects nothing: the pass ends with the model."""

    def _changed(self, name: str, tensor: Tensor) -> Tensor:
        """Changes a tensor. What that computes is not part of the model."""
        frame = self.frames[-1] if self.frames else None
        inside = frame is not None and frame.inside
        try:
            if frame is not None:
                frame.inside = False
            with self.listener.covered(), unrecorded():
                changed = self._change(name, tensor)
            self.listener.flush()
            mask = masking.get_keras_mask(tensor)
            if mask is not None and changed is not tensor:
                masking.set_keras_mask(changed, mask)
            return changed
        finally:
            if frame is not None:
                frame.inside = inside
