"""Tracing on JAX: the pass runs while `jax.jit` traces the model."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from numpy.typing import NDArray

from layertap.tracing.backends import Backend, jaxpr
from layertap.tracing.forward_pass import Arrays, Collector, Shortcut, Step, as_is
from layertap.tracing.model_structure import map_arrays, needs_values

_passes = itertools.count()


class Jax(Backend):
    """Tracing on JAX."""

    belongs = staticmethod(jaxpr.belongs)
    run_with_native_joins = staticmethod(jaxpr.run_with_native_joins)

    def compile(self, run: Collector, model: keras.Model, shortcut: Shortcut) -> Step:
        """Compiles a run of the model, once for each shape, as far as Keras does."""
        # Passed at each call, so that they are not constants of the compiled code.
        variables = model.variables

        def scoped(values: list[Any], inputs: Any) -> dict[str, Any]:
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return run(jax.tree.map(jax.numpy.asarray, inputs), as_is)

        function = scoped if needs_values(model) else jax.jit(scoped)

        def step(inputs: Any) -> Callable[[], Arrays]:
            # JAX computes in the background until the values are read.
            values = [variable.value for variable in variables]
            tensors = function(values, _distributed(inputs))
            return lambda: {name: np.asarray(value) for name, value in tensors.items()}

        return step

    def undecidable(self, error: BaseException) -> bool:
        """Whether Python had to decide by values that a trace does not have."""
        return isinstance(
            error,
            jax.errors.ConcretizationTypeError
            | jax.errors.TracerArrayConversionError
            | jax.errors.TracerIntegerConversionError,
        )

    def traces(self) -> bool:
        """Whether the caller is inside a `jax.jit` function."""
        return isinstance(jax.numpy.add(0, 0), jax.core.Tracer)

    def native_fault(self, model: keras.Model) -> str:
        """Returns why joins that are written with JAX can't be captured, if so."""
        if not needs_values(model):
            return ""
        return (
            "it is joined with JAX itself, in a model that Keras does not compile; "
            "with `keras.ops` it could be captured"
        )

    def retrace(self) -> AbstractContextManager[Any]:
        """Returns a context in which JAX traces every function again.

        JAX may have traced a function of the model: its layers would not be called. The
        metadata has no other effect. Eagerly, each operation would be compiled again.
        """
        if not self.traces():
            return nullcontext()
        return set_xla_metadata(layertap=str(next(_passes)))


def _distributed(inputs: Any) -> Any:
    """Distributes a batch over the devices of the user's distribution, if any."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return inputs

    def distributed(array: NDArray[Any]) -> Any:
        layout = distribution.get_data_layout(array.shape)
        mesh = layout.device_mesh
        sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        # JAX splits an array into even parts only. Otherwise each device receives all
        # of it. Additional rows would be wrong for a model that mixes rows.
        even = all(
            size % sizes.get(axis, 1) == 0
            for size, axis in zip(array.shape, layout.axes, strict=False)
        )
        return keras.distribution.distribute_tensor(array, layout) if even else array

    return map_arrays(distributed, inputs)
