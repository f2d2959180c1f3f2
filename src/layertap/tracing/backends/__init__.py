"""The interface of a backend, and the one that Keras uses."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core.freed_memory import keep_freed_memory
from layertap.errors import ModelError
from layertap.tracing.forward_pass import (
    Arrays,
    Collector,
    Differentiable,
    Pass,
    Point,
    Run,
    Shortcut,
    Step,
    Tensors,
)


class Backend(ABC):
    """What tracing needs of a backend. Where most of them agree, here is how."""

    # Whether a pass may use the memory of an earlier pass's values again.
    reuses_memory = False
    # Whether a step is compiled for each number of rows.
    compiles_each_size = False

    @abstractmethod
    def compile(self, run: Collector, model: keras.Model, shortcut: Shortcut) -> Step:
        """Compiles a run of the model, whose variables are read and never assigned."""

    @abstractmethod
    def begin(
        self, step: Step, inputs: Any, full: int | None = None
    ) -> Callable[[], Arrays]:
        """Begins a step, and returns a function that waits for its arrays.

        `full` are the rows of the batch before. A smaller one may be padded to these.
        """

    def values_of(self, variable: keras.Variable) -> NDArray[Any]:
        """Returns the values of a variable, if possible in its own memory."""
        return np.asarray(keras.ops.convert_to_numpy(variable.value))

    def returned(self, step: Step, inputs: Any) -> Iterable[str]:
        """Returns the names of the results of a step, without computing if possible."""
        return step(inputs)

    @abstractmethod
    def differentiate(self, run: Differentiable) -> tuple[Tensors, Tensors]:
        """Returns the derivatives of a number, and the other results of its run.

        They are with respect to the tensors that the run marked, by name. A tensor
        that the number does not depend on in a differentiable way is left out.
        """

    @abstractmethod
    def run_with_native_joins(self, pass_: Pass, run: Run, inputs: Any) -> None:
        """Runs the model, and traces joins that are written with the backend too."""

    @abstractmethod
    def undecidable(self, error: BaseException) -> bool:
        """Whether Python had to decide by values that symbolic tensors do not have."""

    def belongs(self, tensors: Sequence[Any]) -> Callable[[Any], bool]:
        """Returns a test of whether a tensor is in the same trace as `tensors`."""
        return lambda tensor: True

    def native_fault(self, model: keras.Model) -> str:
        """Returns why joins that are written with the backend can't be captured."""
        return ""

    def points(self) -> list[Point]:
        """Returns the backend's own calls that are wrapped."""
        return []

    def retrace(self) -> AbstractContextManager[Any]:
        """Returns a context in which no earlier trace is used again."""
        return nullcontext()

    def traces(self) -> bool:
        """Whether the caller is being traced: its tensors have no values."""
        return False

    def version(self, tensor: Any) -> int:
        """Returns how often a tensor was changed in place."""
        return 0

    def symbolic_variables(self, model: keras.Model) -> AbstractContextManager[Any]:
        """Returns a context for a survey, in which variables are cast as in a pass."""
        return nullcontext()

    def share_processors(self) -> None:
        """Lets other threads have the processors, until the calling thread ends.

        Idle threads of most backends sleep anyway.
        """
        return


def current_backend() -> Backend:
    """Returns the backend that Keras uses, and lets it keep the memory of batches."""
    keep_freed_memory()
    match keras.backend.backend():
        case "tensorflow":
            from layertap.tracing.backends.tensorflow import TensorFlow

            return TensorFlow()
        case "jax":
            from layertap.tracing.backends.jax import Jax

            return Jax()
        case "torch":
            from layertap.tracing.backends.torch import Torch

            return Torch()
        case name:
            raise ModelError(
                f"The backend {name!r} of Keras is not supported. Expected tensorflow, "
                "jax or torch. Set KERAS_BACKEND before Keras is imported."
            )
