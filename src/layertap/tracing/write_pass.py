"""Makes the compiled pass that puts other tensors in the place of a model's values."""

import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import keras

from layertap.core.address import Side
from layertap.errors import LayertapError, ListeningError
from layertap.tracing.backends import current_backend
from layertap.tracing.collect import CollectPass, record
from layertap.tracing.forward_pass import (
    Addresses,
    Arrays,
    Change,
    Done,
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
                pass_.run_model(inputs)
            if pass_.missing:
                raise ListeningError(
                    f"{model.name!r} can't have another {min(pass_.missing)}: it is an "
                    "input of the model, a part of a loop, or the model's `call` takes "
                    "another way for these inputs. Replace a value that is computed "
                    "before or after it."
                )
            self._structures[_forms(inputs)] = pass_.structure
            return pass_.outputs

        self.step: Step = current_backend().compile(run, model, lambda: None)

    def pack(self, inputs: Any, arrays: Arrays) -> Any:
        """Returns outputs in the structure in which the model returns them."""
        forms = _forms(inputs)
        if forms not in self._structures:
            # TensorFlow traced it for all numbers of rows.
            forms = None, *forms[1:]
        structure = self._structures[forms]
        return map_arrays(lambda number: arrays[number], structure)


def _forms(inputs: Any) -> tuple[Any, ...]:
    """Returns the number of rows, and the sizes and kinds of inputs."""
    leaves = [leaf for leaf in keras.tree.flatten(inputs) if leaf is not None]
    return (
        leaves[0].shape[0],
        *((tuple(x.shape[1:]), "float" in str(x.dtype)) for x in leaves),
    )


class WritePass(CollectPass):
    """A pass that changes values, and computes the model's outputs.

    It also collects the values `collected`: those before they were changed.
    """

    def __init__(
        self,
        model: keras.Model,
        wanted: Wanted,
        change: Change,
        collected: Collection[str] = (),
        keep: Keep = as_is,
    ) -> None:
        super().__init__(Wanted(collected, wanted.kinds, wanted.random), keep)
        self._model = model
        self._written = wanted
        self._change = change
        self._collected = collected
        # The values that nothing was put in the place of.
        self.missing = set(wanted.addresses)
        # That of the outputs, with the number of each.
        self.structure: Any = None

    def run_model(self, inputs: Any) -> Any:
        """Runs the model, and returns its outputs."""
        run = functools.partial(self._run, functools.partial(forward, self._model))
        names = {*self._written.addresses, *self._collected}
        every = Wanted(names, self._written.kinds, self._written.random)
        try:
            record(self, every, run, inputs)
        except Exception as error:
            # Keras raises new errors, of the same types, for those that pass through.
            ours = [one for one in causes(error) if isinstance(one, LayertapError)]
            if ours:
                raise ours[-1] from None
            raise
        return map_arrays(lambda number: self.values[number], self.structure)

    @property
    def outputs(self) -> Tensors:
        """The outputs of the model by number, when it has run."""
        numbers = keras.tree.flatten(self.structure)
        return {n: self.values[n] for n in numbers if n is not None}

    @property
    def collected(self) -> Tensors:
        """The collected values."""
        return {name: self.values[name] for name in self._collected}

    def _run(self, run: Run, inputs: Any) -> None:
        outputs, numbers = run(inputs), itertools.count()
        self.structure = map_arrays(lambda tensor: str(next(numbers)), outputs)
        flat = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
        self.values |= {str(number): tensor for number, tensor in enumerate(flat)}

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
                if name in self._collected:
                    self.add({path: {index: name}}, path, tensors)
                tensors[index] = self._changed(name, tensors[index])
                self.missing.discard(name)
        return tensors

    def add(self, wanted: Addresses, path: str, tensors: Sequence[Tensor]) -> None:
        """Collects values, and goes on: the pass ends with the model."""
        with suppress(Done):
            super().add(wanted, path, tensors)

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
