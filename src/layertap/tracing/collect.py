"""Makes the compiled pass that returns chosen values of a model."""

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import keras

from layertap.errors import ListeningError
from layertap.tracing.backends import backend_module
from layertap.tracing.forward_pass import (
    Done,
    Frame,
    Joining,
    Keep,
    Pass,
    Shortcut,
    Step,
    Tensor,
    Wanted,
    as_is,
    tensors_of,
)
from layertap.tracing.graphs.subgraph import subgraph
from layertap.tracing.hooks import recording
from layertap.tracing.join_kinds import is_native
from layertap.tracing.model_structure import forward, named_inputs

Finish = Callable[[dict[str, Any]], dict[str, Any]]


def tapped(
    model: keras.Model,
    branches: Wanted,
    outputs: Wanted,
    kinds: Iterable[str],
    finish: Finish = dict,
) -> Step:
    """Makes the compiled pass that returns the wanted values.

    Args:
        model: The model. It is not changed, and its variables are only read.
        branches: Wanted branches: address by join path and index.
        outputs: Wanted outputs: address by operation path and index.
        kinds: The kinds of the joins among them.
        finish: What to make of the tensors, by address, within the compiled pass, when
            nothing is heard any more.

    Returns:
        A function that begins the pass of a batch (the structure of arrays that the
        model takes), and returns what gives its values: NumPy arrays by address.
    """

    def run(inputs: Any, keep: Keep) -> dict[str, Any]:
        return finish(collect(model, inputs, branches, outputs, kinds, keep))

    def shortcut() -> Shortcut | None:
        graph = subgraph(model, branches, outputs)
        if graph is None:
            return None
        return lambda inputs: finish(graph(inputs, training=False))

    step: Step = backend_module().compile(run, model, shortcut)
    return step


def collect(
    model: keras.Model,
    inputs: Any,
    branches: Wanted,
    outputs: Wanted,
    kinds: Iterable[str],
    keep: Keep = as_is,
) -> dict[str, Any]:
    """Runs the model until the last wanted tensor was heard, and returns them.

    Args:
        model: The model.
        inputs: The structure of tensors that it takes.
        branches: As of `tapped`.
        outputs: As of `tapped`.
        kinds: As of `tapped`.
        keep: What to do with a tensor at the moment it is heard.

    Raises:
        ListeningError: If a wanted value was not heard in this pass.
    """
    collection = Collection(branches, outputs, kinds, keep)
    with suppress(Done), recording(collection):
        if any(map(is_native, (*branches, *outputs))):
            backend_module().run_with_native_joins(
                collection, functools.partial(forward, model), inputs
            )
        else:
            forward(model, inputs)
    wanted = {
        name
        for names in (*branches.values(), *outputs.values())
        for name in names.values()
    }
    missing = sorted(wanted - collection.values.keys())
    if missing:
        raise ListeningError(
            f"{model.name!r} did not compute {', '.join(missing)} in this pass, though "
            "it was planned: its `call` takes another way for these inputs. Leave them "
            "out, or make the way through the model the same for all batches."
        )
    return collection.values


class Collection(Pass):
    """A pass that keeps the wanted values, and ends as soon as it has them all.

    Args:
        branches: Wanted branches: address by join path and index.
        outputs: Wanted outputs: address by operation path and index. A join's path
            names its output too.
        kinds: The kinds of the joins among them.
        keep: What to do with a tensor at the moment it is heard.
    """

    computes = True

    def __init__(
        self,
        branches: Wanted,
        outputs: Wanted,
        kinds: Iterable[str],
        keep: Keep = as_is,
    ) -> None:
        super().__init__(kinds)
        self.branches = branches
        self.outputs = outputs
        self.keep = keep
        self.values: dict[str, Tensor] = {}
        self._missing = sum(map(len, branches.values())) + sum(
            map(len, outputs.values())
        )

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Keeps the model's inputs, if they are wanted."""
        super().begin(frame, args, kwargs)
        if not frame.path and self.outputs:
            for name, tensor in named_inputs(frame.operation, args[0]).items():
                if name in self.outputs:
                    self._collect(self.outputs[name], [tensor])

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Keeps the operation's outputs, if they are wanted."""
        wanted = self.outputs.get(frame.path)
        if wanted and not self.loops:
            self._collect(wanted, tensors_of(outputs))

    def joins(self, joining: Joining, inputs: list[Tensor]) -> None:
        """Keeps the join's branches, if they are wanted."""
        wanted = self.branches.get(joining.path)
        if wanted and not self.loops:
            self._collect(wanted, inputs)

    def joined(self, joining: Joining, output: Tensor) -> None:
        """Keeps the join's output, if it is wanted."""
        wanted = self.outputs.get(joining.path)
        if wanted and not self.loops:
            self._collect(wanted, [output])

    def settle(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Puts what tensors are outside of the trace in their place."""
        outside = {id(before): after for before, after in pairs}
        self.values = {
            name: outside.get(id(tensor), tensor)
            for name, tensor in self.values.items()
        }

    def kept(self) -> list[Tensor]:
        """Returns the values that were collected."""
        return list(self.values.values())

    def _collect(self, wanted: Mapping[int, str], tensors: Sequence[Tensor]) -> None:
        for index, name in wanted.items():
            if name not in self.values and index < len(tensors):
                self.values[name] = self.keep(tensors[index])
                self._missing -= 1
        if not self._missing:
            raise Done


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    names = ["tensorflow", "tensorflow-cpu"] if backend == "tensorflow" else [backend]
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            return {"keras": keras.__version__, "backend": backend, backend: version}
    return {"keras": keras.__version__, "backend": backend, backend: "unknown"}


# At once: later there may be no file that can be opened.
_VERSIONS = _versions()


def versions() -> dict[str, str]:
    """Returns the versions of Keras and of the backend in use."""
    return dict(_VERSIONS)
