"""Listening on JAX: the pass is heard while `jax.jit` traces it."""

from collections.abc import Sequence
from typing import Any

import jax
import keras
import numpy as np

from layertap.listening.passes import Belongs, Run, Step, as_is
from layertap.listening.private import private


def belongs(tensors: Sequence[Any]) -> Belongs:
    """Returns whether a tensor is of the same trace as `tensors`, or a constant."""
    trace = private(tensors[0], "_trace")
    return lambda tensor: getattr(tensor, "_trace", trace) is trace


def compile(run: Run, model: keras.Model) -> Step:
    """Makes one compiled function of a run of the model.

    Args:
        run: Takes the model's inputs and what to do with a tensor that is heard;
            returns the wanted tensors by address.
        model: The model; its variables are read, never assigned, and handed over
            at each call, so that they are no constants of the compiled code.

    Returns:
        A function of arrays to arrays, compiled once for each shape.
    """
    variables = model.variables

    @jax.jit
    def compiled(values: list[Any], inputs: Any) -> dict[str, Any]:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return run(inputs, as_is)

    def step(inputs: Any) -> dict[str, Any]:
        found = compiled([variable.value for variable in variables], inputs)
        return {name: np.asarray(value) for name, value in found.items()}

    return step
