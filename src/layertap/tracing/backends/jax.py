"""Listening on JAX: the pass is heard while `jax.jit` traces it."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from numpy.typing import NDArray

from layertap.tracing.backends.jaxpr import belongs, run_with_native_joins
from layertap.tracing.forward_pass import (
    Arrays,
    Pass,
    Point,
    Run,
    Shortcut,
    Step,
    as_is,
)

__all__ = [
    "belongs",
    "compile",
    "points",
    "retrace",
    "run_with_native_joins",
    "symbolic",
    "undecidable",
    "version",
]

_passes = itertools.count()


def undecidable(error: BaseException) -> bool:
    """Whether a model decides in Python by values, which a trace does not have."""
    return isinstance(
        error,
        jax.errors.ConcretizationTypeError
        | jax.errors.TracerArrayConversionError
        | jax.errors.TracerIntegerConversionError,
    )


def retrace() -> AbstractContextManager[Any]:
    """Returns a context in which JAX traces everything again.

    A function under `jax.jit` that the model calls may be traced already: the layers
    in it would not be called. What is written into the metadata has no other effect.
    """
    metadata: AbstractContextManager[Any] = set_xla_metadata(
        layertap=str(next(_passes))
    )
    return metadata


def symbolic(tensor: Any) -> bool:
    """Whether a tensor has no values, as in a survey."""
    return True


def version(tensor: Any) -> int:
    """Returns how often a tensor was changed in place: never."""
    return 0


def points(heard: Callable[[], Pass | None]) -> list[Point]:
    """Returns what is wrapped of JAX itself: nothing."""
    return []


def compile(
    run: Run, model: keras.Model, shortcut: Callable[[], Shortcut | None]
) -> Step:
    """Makes one compiled function of a run of the model.

    Args:
        run: Takes the model's inputs and what to do with a tensor that is heard;
            returns the wanted tensors by address.
        model: The model; its variables are read, never assigned, and handed over
            at each call, so that they are no constants of the compiled code.
        shortcut: Not needed: what is heard once is compiled.

    Returns:
        The step, compiled once for each shape.
    """
    variables = model.variables

    @jax.jit
    def compiled(values: list[Any], inputs: Any) -> dict[str, Any]:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return run(inputs, as_is)

    def step(inputs: Any) -> Callable[[], Arrays]:
        # JAX computes while Python goes on, until the values are looked at.
        values = [variable.value for variable in variables]
        found = compiled(values, _distributed(inputs))
        return lambda: {name: np.asarray(value) for name, value in found.items()}

    return step


def _distributed(inputs: Any) -> Any:
    """Lays a batch out on the devices of the user's distribution, if there is one.

    Args:
        inputs: A structure of arrays.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return inputs

    def laid_out(array: NDArray[Any]) -> Any:
        layout = distribution.get_data_layout(array.shape)
        mesh = layout.device_mesh
        sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        # JAX deals out even parts only. Left as it is, an array goes to each device
        # whole; to fill it up with rows would be wrong where a model mixes them.
        even = all(
            size % sizes.get(axis, 1) == 0
            for size, axis in zip(array.shape, layout.axes, strict=False)
        )
        return keras.distribution.distribute_tensor(array, layout) if even else array

    return keras.tree.map_structure(laid_out, inputs)
