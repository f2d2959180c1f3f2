"""The kinds of join, and whose code asked for one."""

import functools
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import keras
from keras import layers

from layertap.tracing.keras_internals import operations, private

# By kind: the layers, and the operations by name, that are themselves such a join and
# lend it their path.
_LAYERS: dict[str, tuple[type, ...]] = {
    "concatenate": (layers.Concatenate,),
    "add": (layers.Add,),
    "subtract": (layers.Subtract,),
    "multiply": (layers.Multiply,),
    "average": (layers.Average,),
    "maximum": (layers.Maximum,),
    "minimum": (layers.Minimum,),
    "dot": (layers.Dot,),
    "stack": (),
    "attention": (
        layers.MultiHeadAttention,
        layers.GroupQueryAttention,
        layers.Attention,
    ),
}
_OPERATIONS = {
    "concatenate": ("Concatenate", "Hstack", "Append"),
    "add": ("Add",),
    "subtract": ("Subtract",),
    "multiply": ("Multiply",),
    "maximum": ("Maximum",),
    "minimum": ("Minimum",),
    "dot": ("Dot", "Matmul"),
    "stack": ("Stack",),
}
KINDS = tuple(_LAYERS)

OPERATIONS = {
    kind: (
        *_LAYERS[kind],
        *(private(operations, name) for name in _OPERATIONS.get(kind, ())),
    )
    for kind in KINDS
}

# Those whose branches are the arguments of their call, in their order.
IN_ORDER = tuple(
    each
    for kind, classes in OPERATIONS.items()
    if kind != "attention"
    for each in classes
)

# Layers whose arguments are the join's inputs, whatever they do with them.
WHOLE = {kind: _LAYERS[kind] for kind in KINDS if kind not in ("concatenate", "stack")}

# Keras' own layers that join without being a join themselves.
MERGING = (layers.Bidirectional,)

# Why nothing inside a recurrent layer can be had.
RNN_LOOP = "the loop of a recurrent layer; `unroll=True` on that layer would let it out"

# How a join is called that stands in a `call` and was not written with Keras.
_OPERATORS = {"add": "add", "subtract": "sub", "multiply": "mul", "dot": "matmul"}
_NATIVE = {
    "tensorflow": ("tf.", {"concatenate": "concat"}),
    "torch": ("torch.", {"concatenate": "cat"}),
    "jax": ("jnp.", {}),
}


def native_name(kind: str, whose: str) -> str:
    """Returns the name of a join that was not written with Keras.

    Args:
        kind: Its kind.
        whose: Whose own business it is, as of `origin`. Such joins are counted on
            their own, so that the names of the user's do not depend on them.

    Example:
    >>> native_name("add", "")
    'operator.add'
    >>> native_name("add", "gelu of jax")
    'gelu.add'
    """
    if whose:
        return f"{whose.partition(' ')[0]}.{kind}"
    if kind in _OPERATORS:
        return f"operator.{_OPERATORS[kind]}"
    prefix, names = _NATIVE[keras.backend.backend()]
    return prefix + names.get(kind, kind)


def is_native(path: str) -> bool:
    """Whether a path may be that of a join that was not written with Keras."""
    return "." in path.rpartition("/")[2]


# Functions that do nothing but the join they are named for, under all of the names
# that they have in Keras and in the backends, public and private.
_JOINING = re.compile(
    r"_*(operator_)?([ir]?(add|sub|mul|matmul)|subtract|multiply|max|maximum|min|"
    r"minimum|concat|concatenate|cat|hstack|vstack|dstack|column_stack|row_stack|append|"
    r"stack|pack|dot|mat_mul|batch_mat_mul|deferring_binary_op)"
    r"(_v\d|_dispatch|_dispatch_factory|_wrapper|_batch_rule)*_*"
)
# What stands between them, and may stand between others.
_BETWEEN = re.compile(r"binary_op_wrapper|op|<lambda>|<listcomp>")

# Below these folders, or in these files, a library only passes calls on.
_PASSING_ON = (
    "keras/src/utils/",
    "keras/src/backend/common/",
    "tensorflow/python/framework/",
    "tensorflow/python/util/",
    "tensorflow/python/eager/",
    "tensorflow/python/autograph/",
    "tensorflow/python/ops/numpy_ops/np_utils.py",
    "tensorflow/python/ops/weak_tensor_ops.py",
    "tensorflow/python/ops/tensor_math_operator_overrides.py",
    "jax/_src/interpreters/",
    "jax/_src/numpy/ufunc_api.py",
    "torch/utils/",
    "torch/_tensor.py",
    "torch/overrides.py",
)
_JAX_MACHINERY = re.compile(r"jax/_src/\w+\.py")
_LIBRARIES = ("keras", "tensorflow", "jax", "torch")
_OURS = Path(__file__).parent.as_posix() + "/"


def origin(frames: Iterable[tuple[str, str]], operation: Any, kind: str) -> str:
    """Says inside which function of a library a join happened.

    Args:
        frames: The files and functions that called each other, the innermost first.
        operation: The Keras operation whose `call` runs.
        kind: The kind of join.

    Returns:
        Empty if the user's code asked for the join: the first function that is not
        Keras' or the backend's called one that does nothing but join, or a layer did
        that is there to join. Else the function that was called instead, or the
        layer: the join is their own business.
    """
    whose = ""
    for file, function in frames:
        if file.startswith(_OURS):
            continue
        library, inside = _library(file)
        if not library:
            break
        name = function.rpartition(".")[2]
        if library == "keras" and name == "call":
            joins = not whose and isinstance(operation, (*OPERATIONS[kind], *MERGING))
            return "" if joins else f"{type(operation).__name__} of Keras"
        passes_on = inside.startswith(_PASSING_ON) or _JAX_MACHINERY.fullmatch(inside)
        if not (passes_on or joins_by_name(name) or _BETWEEN.fullmatch(name)):
            whose = f"{name.strip('_')} of {library}"
    return whose


def joins_by_name(function: str) -> bool:
    """Whether a function of a library does nothing but a join, by its name."""
    return _JOINING.fullmatch(function.rpartition(".")[2]) is not None


@functools.cache
def _library(file: str) -> tuple[str, str]:
    """Returns the library that a file is of, and its path from there; or nothing."""
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        if module is not None and module.__file__ is not None:
            home = Path(module.__file__).parent
            if Path(file).is_relative_to(home):
                return name, f"{name}/{Path(file).relative_to(home).as_posix()}"
    return "", file


def stack(frame: FrameType | None) -> Iterable[tuple[str, str]]:
    """Yields the files and functions of a Python stack, the innermost first."""
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back
