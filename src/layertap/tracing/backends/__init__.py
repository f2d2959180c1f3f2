"""Chooses the room of the backend that Keras runs on."""

import importlib
from types import ModuleType

import keras

from layertap.errors import ModelError

BACKENDS = ("tensorflow", "jax", "torch")


def backend_module() -> ModuleType:
    """Returns the module of the backend in use.

    Each has `belongs(tensors)`, which says whether a tensor is of the same trace as
    these, and `compile(run, model)`, which makes a step of arrays to arrays.

    Raises:
        ModelError: If layertap does not know the backend.
    """
    name = keras.backend.backend()
    if name not in BACKENDS:
        raise ModelError(
            f"Keras runs on the backend {name!r}; layertap hears "
            f"{', '.join(BACKENDS)}. Set KERAS_BACKEND before Keras is imported."
        )
    return importlib.import_module(f"layertap.tracing.backends.{name}")
