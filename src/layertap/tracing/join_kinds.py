"""The kinds of join, and the origin of a join: user code or a library."""

import functools
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import keras
from keras import layers

from layertap.tracing.keras_internals import TFDConcat, numpy, private

# By kind: the layers whose arguments are the join's inputs, however they compute its
# output, and the names of the operations that join.
_JOINS: dict[str, tuple[tuple[type, ...], tuple[str, ...]]] = {
    "concatenate": ((), ("Concatenate", "Hstack", "Append")),
    "add": ((layers.Add,), ("Add",)),
    "subtract": ((layers.Subtract,), ("Subtract",)),
    "multiply": ((layers.Multiply,), ("Multiply",)),
    "average": ((layers.Average,), ()),
    "maximum": ((layers.Maximum,), ("Maximum",)),
    "minimum": ((layers.Minimum,), ("Minimum",)),
    "dot": ((layers.Dot,), ("Dot", "Matmul")),
    "stack": ((), ("Stack",)),
    "attention": (
        (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention),
        (),
    ),
}
KINDS = tuple(_JOINS)
WHOLE_LAYERS = {kind: whole for kind, (whole, _) in _JOINS.items()}
# The kind of join of functions in the backend's `numpy`, by name.
FUNCTIONS = {
    name.lower(): kind for kind, (_, names) in _JOINS.items() for name in names
}

# Layers and operations that are a join themselves, by kind. The join has their path.
OPERATIONS: dict[str, tuple[type, ...]] = {
    kind: (*whole, *(private(numpy, name) for name in names))
    for kind, (whole, names) in _JOINS.items()
}
# The second one joins the features of a `keras.utils.FeatureSpace`.
OPERATIONS["concatenate"] += (layers.Concatenate, TFDConcat)

# Operations whose branches are the arguments of their call, in the same order.
IN_ORDER = tuple(OPERATIONS[kind] for kind in KINDS if kind != "attention")

# Layers of Keras that join on behalf of the user, but are not a join themselves.
MERGING = (layers.Bidirectional,)

# The name of the loop in the reason why a value inside it can't be captured.
RNN_LOOP = "the loop of a recurrent layer; `unroll=True` on that layer removes the loop"

# The names of joins that are written with the backend, not with Keras.
_OPERATORS = {"add": "add", "subtract": "sub", "multiply": "mul", "dot": "matmul"}
_NATIVE = {
    "tensorflow": ("tf.", {"concatenate": "concat"}),
    "torch": ("torch.", {"concatenate": "cat"}),
    "jax": ("jnp.", {}),
}


def native_name(kind: str, whose: str) -> str:
    """Returns the name of a join that is not written with Keras.

    Joins of libraries are counted separately: the names of the user's joins do not
    depend on them.

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


def operation_name(kind: str) -> str:
    """Returns the name of a join that is written with `keras.ops`."""
    return kind if kind == "concatenate" else f"ops.{kind}"


def is_native(path: str) -> bool:
    """Whether a path may be that of a join that is not written with Keras."""
    return "." in path.rpartition("/")[2]


# Functions that only do the join they are named for. They have public and private names
# in Keras and in the backends.
_JOINING = re.compile(
    r"_*(operator_)?([ir]?(add|sub|mul|matmul)|subtract|multiply|max|maximum|min|"
    r"minimum|concat|concatenate|cat|hstack|vstack|dstack|column_stack|row_stack|append|"
    r"stack|pack|dot|mat_mul|batch_mat_mul|deferring_binary_op)"
    r"(_v\d|_dispatch|_dispatch_factory|_wrapper|_batch_rule)*_*"
)
# Functions between those, which are also called by others.
_BETWEEN = re.compile(r"binary_op_wrapper|op|<lambda>|<listcomp>")

# The folders and files in which a library only passes calls on.
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
    """Returns the library function, or Keras layer, that joins on its own account.

    `frames` are the files and functions of the stack, the innermost first; `operation`
    is the one whose `call` runs. The result is empty if user code requested the join:
    if it called a function that only joins, or a layer that is there to join.
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
    """Whether a function of a library only joins, by its name."""
    return _JOINING.fullmatch(function.rpartition(".")[2]) is not None


@functools.cache
def _library(file: str) -> tuple[str, str]:
    """Returns the library of a file and the file's path in it, or an empty name."""
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
