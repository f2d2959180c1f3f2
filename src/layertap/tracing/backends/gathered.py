"""Values as the bytes of one buffer, which leaves a GPU in one copy."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from layertap.tracing.forward_pass import Arrays, Tensors


@dataclass(frozen=True)
class Form:
    """The place of one value in the buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """The bytes of the value."""
        return math.prod(self.shape) * self.dtype.itemsize


def forms(tensors: Tensors) -> list[Form]:
    """Returns the order of values in a buffer: the widest numbers first, aligned."""
    found = [
        Form(name, tuple(map(int, tensor.shape)), _dtype(tensor))
        for name, tensor in tensors.items()
    ]
    return sorted(found, key=lambda form: -form.dtype.itemsize)


def split(buffer: NDArray[np.uint8], ordered: list[Form]) -> Arrays:
    """Returns the values of a buffer, which share its memory."""
    arrays, start = {}, 0
    for form in ordered:
        part = buffer[start : start + form.bytes]
        arrays[form.name] = part.view(form.dtype).reshape(form.shape)
        start += form.bytes
    return arrays


def _dtype(tensor: Any) -> np.dtype[Any]:
    name = keras.backend.standardize_dtype(tensor.dtype)
    # NumPy does not know all dtypes of Keras.
    return np.dtype(getattr(ml_dtypes, name, name))
