"""Makes the compiled pass that returns chosen values of a model."""

import functools
import importlib.metadata
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import keras

from layertap.errors import ListeningError
from layertap.tracing.backends import backend_module
from layertap.tracing.collection import Collection, Wanted
from layertap.tracing.forward_pass import Done, Keep, Shortcut, Step, as_is
from layertap.tracing.graphs.subgraph import subgraph
from layertap.tracing.hooks import recording
from layertap.tracing.join_kinds import is_native
from layertap.tracing.model_structure import (
    forward,
)

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
