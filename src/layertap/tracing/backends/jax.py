"""Tracing on JAX: the pass runs while `jax.jit` traces the model."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from numpy.typing import NDArray

from layertap.tracing.backends import Backend, jaxpr
from layertap.tracing.backends.gathered import forms, split
from layertap.tracing.backends.row_flow import RowFlow
from layertap.tracing.forward_pass import (
    Arrays,
    Collector,
    Differentiable,
    Shortcut,
    Step,
    Tensors,
    as_is,
)
from layertap.tracing.model_structure import (
    attach_variables,
    map_arrays,
    needs_values,
)

_passes = itertools.count()


class Jax(Backend):
    """Tracing on JAX."""

    compiles_each_size = True
    belongs = staticmethod(jaxpr.belongs)
    run_with_native_joins = staticmethod(jaxpr.run_with_native_joins)

    def compile(self, run: Collector, model: keras.Model, shortcut: Shortcut) -> Step:
        """Compiles a run of the model, once for each shape, as far as Keras does."""
        return _CompiledStep(run, model)

    def begin(
        self, step: Step, inputs: Any, full: int | None = None
    ) -> Callable[[], Arrays]:
        """Begins a step: JAX computes in the background until the values are read."""
        assert isinstance(step, _CompiledStep)
        rows = jax.tree.leaves(inputs)[0].shape[0]
        pads = full is not None and step.pads(inputs, rows, full)
        tensors = step(_padded(inputs, full - rows) if full and pads else inputs)
        finish: Callable[[], Arrays] = (
            functools.partial(jax.tree.map, np.asarray, tensors)
            if jax.default_backend() == "cpu"
            else copied(tensors)
        )
        if not pads:
            return finish
        return lambda: {name: array[:rows] for name, array in finish().items()}

    def returned(self, step: Step, inputs: Any) -> Iterable[str]:
        """Returns the names of the results of a step, from its trace."""
        assert isinstance(step, _CompiledStep)
        return step.forms(inputs)

    def differentiate(self, run: Differentiable) -> tuple[Tensors, Tensors]:
        """Returns the derivatives with respect to sums that are added, at zero."""
        marked: dict[str, Any] = {}

        def mark(name: str, tensor: Any) -> Any:
            marked[name] = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
            return tensor

        jax.eval_shape(lambda: run(mark))
        zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), marked)

        def shifted(added: Tensors) -> tuple[Any, Tensors]:
            return run(lambda name, tensor: tensor + added[name])

        derivative = jax.grad(shifted, has_aux=True)
        return jaxpr.without_constants(derivative, zeros)

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


def copied(tensors: Tensors) -> Callable[[], Arrays]:
    """Begins to copy values to the host, and returns a function that waits for them."""
    ordered = forms(tensors)
    gathered = _gathered([tensors[form.name] for form in ordered])
    gathered.copy_to_host_async()
    return lambda: split(np.asarray(gathered), ordered)


@jax.jit
def _gathered(tensors: list[Any]) -> Any:
    return jax.numpy.concatenate([_bytes(tensor).reshape(-1) for tensor in tensors])


def _bytes(tensor: Any) -> Any:
    if tensor.dtype == bool:
        return tensor.astype("uint8")
    if jax.numpy.iscomplexobj(tensor):
        tensor = jax.numpy.stack([tensor.real, tensor.imag], axis=-1)
    return jax.lax.bitcast_convert_type(tensor, "uint8")


class _CompiledStep:
    """A step that is compiled once for each shape, as far as Keras compiles it."""

    def __init__(self, run: Collector, model: keras.Model) -> None:
        self._run = run
        self._model = model
        # Passed at each call, so that they are not constants of the compiled code.
        self._variables = model.variables
        # Other variables that were read, which are constants of it, with their values.
        self._constants: list[tuple[keras.Variable, Any]] = []
        self._lock = threading.Lock()
        # The shapes that it was compiled for.
        self._shapes: set[Any] = set()
        # Whether batches of some shapes are padded to a number of rows.
        self._padded: dict[Any, bool] = {}
        self._compile()

    def _compile(self) -> None:
        self._function: Any = self._scoped
        if not needs_values(self._model):
            # A new function: JAX does not trace an equal one again.
            self._function = jax.jit(lambda *arguments: self._scoped(*arguments))
        self._shapes.clear()
        self._padded.clear()
        self._constants.clear()

    def _scoped(self, values: list[Any], inputs: Any) -> Tensors:
        pairs = zip(self._variables, values, strict=True)
        with _ReadingScope(pairs) as scope:
            tensors = self._run(jax.tree.map(jax.numpy.asarray, inputs), as_is)
        for variable in scope.others:
            if not any(variable is known for known, _ in self._constants):
                self._constants.append((variable, variable.value))
        return tensors

    def __call__(self, inputs: Any) -> Tensors:
        """Computes a batch with the numbers that the variables have now."""
        values = self._values()
        inputs = _distributed(inputs)
        shapes = _shapes(inputs)
        if shapes in self._shapes:
            return self._function(values, inputs)
        with self._lock:
            tensors = self._function(values, inputs)
            self._shapes.add(shapes)
            return tensors

    def forms(self, inputs: Any) -> dict[str, Any]:
        """Returns the shapes and dtypes that it returns for a batch."""
        values = self._values()
        with self._lock:
            return jax.eval_shape(self._function, values, inputs)

    def pads(self, inputs: Any, rows: int, full: int) -> bool:
        """Whether a batch is padded: each row of the outputs needs that row alone."""
        if rows >= full or needs_values(self._model):
            return False
        if keras.distribution.distribution() is not None:
            return False
        values, shapes = self._values(), (full, _shapes(inputs))
        with self._lock:
            if shapes not in self._padded:
                batches = inputs, _padded(inputs, full - rows)
                # The one that is needed is compiled from this trace.
                fewer, more = (self._function.trace(values, x).jaxpr for x in batches)
                axes = [None] * len(values) + [0] * len(jax.tree.leaves(inputs))
                flow = RowFlow((rows, full))
                self._padded[shapes] = flow.independent(fewer, more, axes)
            return self._padded[shapes]

    def _values(self) -> list[Any]:
        """Returns the variables' numbers, and compiles again if a constant changed."""
        attach_variables(self._model)
        if any(variable.value is not value for variable, value in self._constants):
            with self._lock:
                self._compile()
        return [variable.value for variable in self._variables]


class _ReadingScope(keras.StatelessScope):
    """A scope that notes which variables are read besides its own."""

    def __init__(self, pairs: Any) -> None:
        super().__init__(pairs)
        self.others: list[keras.Variable] = []

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Returns the value of a variable here; None for that outside."""
        value = super().get_current_value(variable)
        if value is None:
            self.others.append(variable)
        return value


def _shapes(inputs: Any) -> Any:
    return tuple((x.shape, x.dtype) for x in jax.tree.leaves(inputs))


def _padded(inputs: Any, more: int) -> Any:
    """Returns a batch with its last row repeated, which the model accepts."""
    return map_arrays(
        lambda array: np.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1), "edge"),
        inputs,
    )


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
