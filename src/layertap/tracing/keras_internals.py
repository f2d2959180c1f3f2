"""All access to private parts of Keras. An error names a missing part."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from layertap.errors import ListeningError

# The release of Keras that is in use.
RELEASE = tuple(map(int, re.findall(r"\d+", keras.__version__)[:3]))


def moved(what: str) -> ListeningError:
    """Returns the error that names the release of Keras and the missing part."""
    return ListeningError(
        f"Keras {keras.__version__} on {keras.backend.backend()} has moved a part that "
        f"layertap uses: {what}. Use a release of Keras that the README of this "
        "layertap names, or a newer layertap."
    )


def private(owner: Any, name: str) -> Any:
    """Returns a private attribute of an object of Keras or of its backend.

    It raises a `ListeningError` if this release of Keras has moved it.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        whose = getattr(owner, "__name__", type(owner).__name__)
        raise moved(f"`{whose}` has no `{name}`") from error


try:
    from keras.src import backend as backend
    from keras.src.backend.common import masking as masking
    from keras.src.backend.common.stateless_scope import get_stateless_scope
    from keras.src.layers.preprocessing.feature_space import TFDConcat as TFDConcat
    from keras.src.models.functional import Functional as Functional
    from keras.src.ops import numpy as numpy
    from keras.src.ops.node import Node as Node
    from keras.src.trainers.compile_utils import CompileLoss as CompileLoss
    from keras.src.utils.module_utils import tensorflow as _tensorflow
except ImportError as error:
    raise moved(error.msg) from error


@contextmanager
def unassigned() -> Iterator[None]:
    """Restores at its end the variables that a model assigned, in a stateless scope."""
    mapping = get_stateless_scope().state_mapping
    before = dict(mapping)
    try:
        yield
    finally:
        mapping.clear()
        mapping.update(before)


def spec_on_tensorflow(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns the output specs of a function of TensorFlow, on any backend."""
    try:
        from keras.src.backend.tensorflow.core import compute_output_spec
    except ImportError:  # Keras 3.16 moves it.
        from keras.src.backend.tensorflow.ops.core import compute_output_spec

    return compute_output_spec(function, *args, **kwargs)


@contextmanager
def without_importing_tensorflow() -> Iterator[None]:
    """Lets Keras read configurations without TensorFlow, unless it was imported before.

    Keras would import it, which takes seconds, to look for its types.
    """
    if private(_tensorflow, "_available") is not None or "tensorflow" in sys.modules:
        yield
        return
    _tensorflow._available = False
    try:
        yield
    finally:
        _tensorflow._available = None
