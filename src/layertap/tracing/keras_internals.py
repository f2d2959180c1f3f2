"""Keras' private parts: whatever listening takes of them, it takes through here.

A release of Keras without one of them is named, with the part: it ends neither in an
error from far below nor in values that are not heard.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from layertap.errors import ListeningError


def moved(what: str) -> ListeningError:
    """Returns the error that names the release of Keras, and what it has moved.

    Args:
        what: What was looked for and not found, as a clause.
    """
    return ListeningError(
        f"Keras {keras.__version__} on {keras.backend.backend()} has moved what "
        f"layertap listens to: {what}. Use a release that this layertap names in its "
        "README, or a newer layertap."
    )


def private(owner: Any, name: str) -> Any:
    """Returns an attribute that Keras, or its backend, promises nobody.

    Args:
        owner: An object of Keras or of its backend.
        name: The attribute.

    Raises:
        ListeningError: If this release of Keras has moved it.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        whose = getattr(owner, "__name__", type(owner).__name__)
        raise moved(f"`{whose}` has no `{name}`") from error


try:
    from keras.src import backend
    from keras.src.models.functional import Functional
    from keras.src.ops import numpy as operations
    from keras.src.ops.node import Node
    from keras.src.utils.module_utils import tensorflow as _tensorflow
except ImportError as error:
    raise moved(error.msg) from error

__all__ = [
    "Functional",
    "Node",
    "backend",
    "moved",
    "operations",
    "private",
    "without_tensorflow",
]


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Keeps Keras from importing TensorFlow to see whether it is installed.

    It does so to know the types of TensorFlow in a configuration, and that takes
    seconds. As long as nobody has imported it, there are none.
    """
    if private(_tensorflow, "_available") is not None or "tensorflow" in sys.modules:
        yield
        return
    _tensorflow._available = False
    try:
        yield
    finally:
        _tensorflow._available = None
