"""The interface of a backend, and the module that implements it for Keras' own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import keras

from layertap.errors import ModelError
from layertap.tracing.forward_pass import Collector, Pass, Point, Shortcut, Step


class Backend(Protocol):
    """The interface of a backend. Modules implement it."""

    def belongs(self, tensors: Sequence[Any]) -> Callable[[Any], bool]:
        """Returns a test of whether a tensor is in the same trace as `tensors`."""

    def compile(
        self,
        run: Collector,
        model: keras.Model,
        shortcut: Callable[[], Shortcut | None],
    ) -> Step:
        """Compiles a run of the model, whose variables are read and never assigned."""

    def points(self) -> list[Point]:
        """Returns the backend's own calls that are wrapped."""

    def retrace(self) -> AbstractContextManager[Any]:
        """Returns a context in which no earlier trace is used again."""

    def run_with_native_joins(
        self, pass_: Pass, run: Callable[[Any], Any], inputs: Any
    ) -> None:
        """Runs the model, and traces joins that are written with the backend too."""

    def symbolic(self, tensor: Any) -> bool:
        """Whether a tensor of a survey has no values."""

    def undecidable(self, error: BaseException) -> bool:
        """Whether Python had to decide by values that symbolic tensors do not have."""

    def version(self, tensor: Any) -> int:
        """Returns how often a tensor was changed in place."""


def backend_module() -> Backend:
    """Returns the module of the backend in use."""
    match keras.backend.backend():
        case "tensorflow":
            from layertap.tracing.backends import tensorflow

            return tensorflow
        case "jax":
            from layertap.tracing.backends import jax

            return jax
        case "torch":
            from layertap.tracing.backends import torch

            return torch
        case name:
            raise ModelError(
                f"The backend {name!r} of Keras is not supported. Expected tensorflow, "
                "jax or torch. Set KERAS_BACKEND before Keras is imported."
            )
