"""Makes the compiled pass that returns chosen values of a model."""

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.errors import ListeningError
from layertap.tracing.backends import current_backend
from layertap.tracing.forward_pass import (
    Addresses,
    Arrays,
    Done,
    Frame,
    Keep,
    Pass,
    Run,
    Step,
    Tensor,
    Tensors,
    Wanted,
    as_is,
    tensors_of,
)
from layertap.tracing.graphs.subgraph import subgraph
from layertap.tracing.hooks import recording
from layertap.tracing.join_kinds import is_native
from layertap.tracing.model_structure import forward, named_inputs
from layertap.tracing.records import TracedJoin
from layertap.tracing.reuse.memo import tracing

Finish = Callable[[Tensors], Tensors]


def tapped(model: keras.Model, wanted: Wanted, finish: Finish = dict) -> Step:
    """Makes the compiled pass that returns the wanted values of a batch.

    `finish` changes the tensors, by address, at the end of the compiled pass.
    """

    def run(inputs: Any, keep: Keep) -> Tensors:
        with tracing(model):
            return finish(collect(model, inputs, wanted, keep))

    def shortcut() -> Callable[[Any], Tensors] | None:
        # Only a pass draws the same random numbers for each batch.
        graph = None if wanted.random else subgraph(model, wanted)
        if graph is None:
            return None

        def run_graph(inputs: Any) -> Tensors:
            with tracing(model):
                return finish(graph(inputs, training=False))

        return run_graph

    return current_backend().compile(run, model, shortcut)


def begin(step: Step, inputs: Any, full: int | None = None) -> Callable[[], Arrays]:
    """Begins a step, and returns a function that returns its values as arrays.

    `full` are the rows of a full batch of the same data. A smaller batch is padded to
    these if that changes no value, and spares a compilation.

    Call that function once, before that of the next batch, which may be begun before.
    The arrays may be memory of the backend: read-only, and valid until the next call.
    """
    return current_backend().begin(step, inputs, full)


def may_change(array: NDArray[Any], inputs: Sequence[NDArray[Any]]) -> bool:
    """Whether an array of a step may be memory of its inputs, or of a later pass."""
    shared = (np.may_share_memory(array, one) for one in inputs)
    return current_backend().reuses_memory or any(shared)


def collect(
    model: keras.Model, inputs: Any, wanted: Wanted, keep: Keep = as_is
) -> Tensors:
    """Runs the model until the last wanted tensor is known, and returns them all.

    `keep` copies a tensor, where necessary, at the moment it is known. With
    `wanted.random`, random numbers are the same in every pass: in a stateless scope.
    """
    pass_ = CollectPass(wanted, keep)
    with suppress(Done):
        record(pass_, wanted, functools.partial(forward, model), inputs)
    missing = sorted(set(wanted.addresses) - pass_.values.keys())
    if missing:
        raise ListeningError(
            f"{model.name!r} did not compute {', '.join(missing)} in this pass. "
            "They were planned, but its `call` takes another way for these inputs. "
            "Leave them out, or let the model take the same way for all batches."
        )
    return pass_.values


def record(pass_: Pass, wanted: Wanted, run: Run, inputs: Any) -> None:
    """Runs a model in a pass, with native joins if values of these are wanted."""
    with recording(pass_):
        if any(is_native(path) for side in wanted.sides.values() for path in side):
            current_backend().run_with_native_joins(pass_, run, inputs)
        else:
            run(inputs)


class CollectPass(Pass):
    """A pass that collects the wanted values, and ends with the last of them."""

    computes = True

    def __init__(self, wanted: Wanted, keep: Keep) -> None:
        super().__init__(wanted.kinds)
        self._reseed = wanted.random
        # The generators of random numbers that gave a seed.
        self._generators: list[Any] = []
        self.values: dict[str, Tensor] = {}
        self._branches = wanted.sides["in"]
        self._outputs = wanted.sides["out"]
        self._keep = keep
        self._count = len(set(wanted.addresses))

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Collects the model's inputs, if they are wanted."""
        super().begin(frame, args, kwargs)
        if not frame.path and self._outputs:
            for name, tensor in named_inputs(frame.operation, args[0]).items():
                self.add(self._outputs, name, [tensor])

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Collects the operation's outputs, if they are wanted."""
        if frame.path in self._outputs:
            self.add(self._outputs, frame.path, tensors_of(outputs))

    def begin_join(self, join: TracedJoin, inputs: list[Tensor]) -> TracedJoin:
        """Collects the join's branches, if they are wanted."""
        self.add(self._branches, join.path, inputs)
        return join

    def end_join(self, join: TracedJoin, output: Tensor) -> None:
        """Collects the join's output, if it is wanted."""
        self.add(self._outputs, join.path, [output])

    def draw(self, generator: Any) -> None:
        """Resets a generator: random numbers do not depend on what ran before.

        A generator without a seed gets its number in the pass: other processes draw
        the same.
        """
        if not self._reseed or any(generator is known for known in self._generators):
            return
        seed = generator.get_config()["seed"]
        seed = len(self._generators) if seed is None else seed
        state = generator.state
        state.assign(keras.ops.convert_to_tensor([seed, 0], dtype=state.dtype))
        self._generators.append(generator)

    def held_tensors(self) -> list[Tensor]:
        """Returns the collected values."""
        return list(self.values.values())

    def replace_tensors(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Replaces the values by their counterparts outside the trace."""
        outside = {id(before): after for before, after in pairs}
        self.values = {
            name: outside.get(id(tensor), tensor)
            for name, tensor in self.values.items()
        }

    def add(self, wanted: Addresses, path: str, tensors: Sequence[Tensor]) -> None:
        """Collects the wanted ones of some tensors; ends the pass after the last."""
        if self.loops:
            return
        for index, name in wanted.get(path, {}).items():
            if name not in self.values and index < len(tensors):
                self.values[name] = self._keep(tensors[index])
        if len(self.values) == self._count:
            raise Done


def _versions() -> dict[str, str]:
    """Returns the versions of Keras and of the backend in use."""
    backend, version = keras.backend.backend(), "unknown"
    names = ["tensorflow-cpu", "tensorflow"] if backend == "tensorflow" else [backend]
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
    return {"keras": keras.__version__, "backend": backend, backend: version}


# Read on import: later, there may be too many open files.
VERSIONS = _versions()
