"""Whether Keras still has the parts that `tracing` uses.

An error names a missing part, Keras still goes through each wrapped call, and only
`tracing/keras_internals.py` uses private parts.
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.backend.common import masking
from keras.src.utils import module_utils

import layertap
from layertap import keract
from layertap.analysis.measured_head import compile_arguments
from layertap.core.plan import Branch, Join
from layertap.errors import ListeningError
from layertap.inputs.feed import Feed
from layertap.pipeline.fingerprint import configuration_digest
from layertap.pipeline.planned_pass import planned_pass
from layertap.tracing import hooks
from layertap.tracing.forward_pass import Wanted
from layertap.tracing.graphs.cut import cut
from layertap.tracing.graphs.subgraph import subgraph
from layertap.tracing.model_structure import input_specs, learned
from tests.support.campaign import everywhere

pytestmark = pytest.mark.every_backend

POINTS = {
    f"{owner.__name__.rpartition('.')[2]}.{name}": (owner, name)
    for owner, name, _ in hooks.points()
}
# Keras 3.16 moves them from `backend.rnn` and `core.remat`.
(RNN,) = (point for point in POINTS if point.endswith(".rnn"))
REMAT = [point for point in POINTS if point.endswith(".remat")]  # not in Keras 3.8
every_point = pytest.mark.parametrize("point", POINTS)


def joined(model_input: Any, branch: Any) -> keras.Model:
    both = layers.Concatenate(axis=-1, name="fusion")([branch, model_input])
    return keras.Model(model_input, layers.ReLU(name="head")(both))


def two_branches() -> keras.Model:
    x = keras.Input((4, 3), name="x")
    return joined(x, layers.Dense(2, name="dense")(x))


# Errors name a missing part.


@every_point
def test_an_error_names_a_missing_call(point, monkeypatch):
    model = two_branches()
    owner, name = POINTS[point]
    monkeypatch.delattr(owner, name)
    with pytest.raises(ListeningError) as raised:
        layertap.plan(model)
    assert str(raised.value).startswith(f"Keras {keras.__version__} on ")
    assert f"{point}`" in str(raised.value)


def node_of(model: keras.Model) -> Any:
    """Returns the node of the join."""
    return model.get_layer("fusion")._inbound_nodes[0]


def plan_sequential(model: keras.Model) -> None:
    layertap.plan(model, outputs="*")


def shortcut(model: keras.Model) -> None:
    subgraph(model, Wanted(["fusion/out"], ()))


def cut_fusion(model: keras.Model) -> None:
    specs = input_specs(model)
    branches = (
        Branch("fusion/in/0", "dense", (None, 4, 2), "float32"),
        Branch("fusion/in/1", "x", (None, 4, 3), "float32"),
    )
    join = Join("fusion", "concatenate", 2, (None, 4, 5), "float32", branches)
    cut(model, specs, [join]).head("head")


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), layers.Dense(2)])


def compiled() -> keras.Model:
    model = sequential()
    model.compile(loss="mse")
    return model


def read_loss(model: keras.Model) -> None:
    compile_arguments(model, None, None)


Gone = tuple[Callable[[], keras.Model], Callable[[Any], Any], Callable[[Any], Any]]


# By attribute: a model, the owner of the attribute in it, and a function that reads it.
def differentiate_loss(model: keras.Model) -> None:
    x = np.zeros((2, *model.input_shape[1:]), "float32")
    labels = np.zeros((2, *model.output_shape[1:]), "float32")
    keract.get_gradients_of_activations(model, x, labels)


PRIVATE: dict[str, Gone] = {
    "_inputs_struct": (two_branches, lambda model: model, layertap.plan),
    "_keras_history": (two_branches, lambda model: model.inputs[0], layertap.plan),
    "_functional": (sequential, lambda model: model, plan_sequential),
    "_nodes_by_depth": (two_branches, lambda model: model, cut_fusion),
    "_inbound_nodes": (
        two_branches,
        lambda model: model.get_layer("fusion"),
        cut_fusion,
    ),
    "_outbound_nodes": (
        two_branches,
        lambda model: model.get_layer("fusion"),
        cut_fusion,
    ),
    "_outputs_struct": (two_branches, lambda model: model, cut_fusion),
    "outputs": (two_branches, node_of, shortcut),
    "operation": (two_branches, node_of, cut_fusion),
    "arguments": (two_branches, node_of, cut_fusion),
    "keras_tensors": (two_branches, lambda model: node_of(model).arguments, cut_fusion),
    "get_keras_mask": (two_branches, lambda model: masking, cut_fusion),
    "is_input": (two_branches, node_of, cut_fusion),
    "_flatten_layers": (two_branches, lambda model: layers.Layer, learned),
    "_compile_config": (compiled, lambda model: model, read_loss),
    "config": (compiled, lambda model: model._compile_config, read_loss),
    "_compile_loss": (compiled, lambda model: model, differentiate_loss),
    "_available": (
        two_branches,
        lambda model: module_utils.tensorflow,
        configuration_digest,
    ),
}


@pytest.mark.parametrize("name", PRIVATE)
def test_an_error_names_a_missing_attribute(name, monkeypatch):
    build, owner, read = PRIVATE[name]
    model = build()
    monkeypatch.delattr(owner(model), name)
    with pytest.raises(ListeningError) as raised:
        read(model)
    assert str(raised.value).startswith(f"Keras {keras.__version__} on ")
    assert f"has no `{name}`" in str(raised.value)


WITHOUT = """
import sys
import keras
from keras.src.models import functional
from keras.src.ops import numpy
import layertap
from layertap.errors import ListeningError

for module, name in (functional, "Functional"), (numpy, "Stack"):
    original = getattr(module, name)
    delattr(module, name)
    try:
        layertap.plan(keras.Sequential())
    except ListeningError as error:
        print(error)
    setattr(module, name, original)
"""


@everywhere
def test_an_error_names_a_missing_class():
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    lines = process.stdout.splitlines()
    for line, name in zip(lines, ("Functional", "Stack"), strict=True):
        assert line.startswith(f"Keras {keras.__version__} on ")
        assert name in line


# Keras goes through the wrapped calls.


class Joins(layers.Layer):
    """Joins within its `call`."""

    def call(self, x):
        return ops.concatenate([x, x], axis=-1)


# A wrapped call, an operation that has to go through it, and a branch of a model.
TRACED: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("Layer.__call__", "a layer", lambda x: layers.Dense(2)(x)),
    ("Operation.__call__", "a layer", lambda x: layers.Dense(2)(x)),
    ("Operation.__call__", "an operation of a graph", ops.relu),
    ("Functional._standardize_inputs", "a functional model", lambda x: x),
    ("numpy.concatenate", "keras.layers.Concatenate", lambda x: x),
    ("numpy.concatenate", "keras.ops.concatenate", lambda x: Joins()(x)),
    # A cell may join. The kernels of LSTM and GRU do not use `rnn`, and do not join.
    (
        RNN,
        "keras.layers.RNN",
        lambda x: layers.RNN(layers.SimpleRNNCell(2), return_sequences=True)(x),
    ),
]

# The same for loops and functions that join, outside a model.
ALONE: dict[str, Callable[[Any], Any]] = {
    "Layer.__init__": lambda x: layers.Dense(2),
    "Operation.symbolic_call": lambda x: ops.relu(keras.KerasTensor(x.shape)),
    "core.cond": lambda x: ops.cond(ops.sum(x) > 0, lambda: x, lambda: -x),
    "core.switch": lambda x: ops.switch(0, [lambda y: y, lambda y: -y], x),
    "numpy.hstack": lambda x: ops.hstack([x, x]),
    "numpy.append": lambda x: ops.append(x, x, axis=1),
    "numpy.stack": lambda x: ops.stack([x, x], axis=1),
    "numpy.add": lambda x: ops.add(x, x),
    "numpy.subtract": lambda x: ops.subtract(x, x),
    "numpy.multiply": lambda x: ops.multiply(x, x),
    "numpy.maximum": lambda x: ops.maximum(x, x),
    "numpy.minimum": lambda x: ops.minimum(x, x),
    "numpy.dot": lambda x: ops.dot(x, ops.transpose(x)),
    "numpy.matmul": lambda x: ops.matmul(x, ops.transpose(x)),
    "core.associative_scan": lambda x: ops.associative_scan(ops.add, x),
    "core.fori_loop": lambda x: ops.fori_loop(0, 2, lambda i, y: y + 1.0, x),
    "core.map": lambda x: ops.map(lambda row: row + 1.0, x),
    "core.scan": lambda x: ops.scan(lambda state, row: (state, row), x[0], x),
    "core.vectorized_map": lambda x: ops.vectorized_map(lambda row: row + 1.0, x),
    "core.while_loop": lambda x: ops.while_loop(
        lambda y: ops.sum(y) < 9.0, lambda y: (y + 1.0,), (x,)
    ),
}

RANDOM: dict[str, Callable[[Any], Any]] = {
    "normal": lambda x: keras.random.normal((2,)),
    "uniform": lambda x: keras.random.uniform((2,)),
    "categorical": lambda x: keras.random.categorical(x, 1),
    "randint": lambda x: keras.random.randint((2,), 0, 9),
    "truncated_normal": lambda x: keras.random.truncated_normal((2,)),
    "dropout": lambda x: keras.random.dropout(x, 0.5),
    "shuffle": keras.random.shuffle,
    "gamma": lambda x: keras.random.gamma((2,), 1.0),
    "binomial": lambda x: keras.random.binomial((2,), 3.0, 0.5),
    "beta": lambda x: keras.random.beta((2,), 1.0, 1.0),
}
ALONE |= {f"random.{name}": call for name, call in RANDOM.items()}
ALONE["SeedGenerator.next"] = RANDOM["normal"]

for point in REMAT:
    ALONE[point] = lambda x: keras.remat(lambda y: y + 1.0)(x)

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    ALONE["Function.__call__"] = lambda x: tf.function(lambda y: y + 1.0)(x)
    ALONE["FuncGraph.as_default"] = tf.function(lambda y: y + 1.0).get_concrete_function


class ReachedError(Exception):
    """Ends an operation whose result does not matter: some take seconds to compile."""


class Noted:
    """Replaces one of `POINTS` with a call that notes that it was reached."""

    def __init__(
        self, point: str, patch: pytest.MonkeyPatch, *, end: bool = False
    ) -> None:
        self.point, self.reached = point, False
        owner, name = POINTS[point]
        original = vars(owner)[name]

        @functools.wraps(original)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.reached = True
            if end:
                raise ReachedError
            return original(*args, **kwargs)

        patch.setattr(owner, name, noted)

    def assert_reached(self, by: str) -> None:
        assert self.reached, (
            f"Keras {keras.__version__} still has {self.point}, but {by} does not go "
            "through it any more: layertap would not trace it."
        )
        self.reached = False


@pytest.mark.parametrize(
    ("point", "operation", "branch"),
    TRACED,
    ids=[f"{p}-{operation}" for p, operation, _ in TRACED],
)
def test_keras_goes_through_the_call(point, operation, branch, monkeypatch):
    x = keras.Input((4, 3), name="x")
    model = joined(x, branch(x))
    noted = Noted(point, monkeypatch)
    # The head is after the join: nothing runs after the last wanted value.
    plan = layertap.plan(model, outputs="head")
    noted.assert_reached(f"planning {operation}")
    feed = Feed(np.ones((2, 4, 3), "float32"), input_specs(model))
    planned_pass(model, plan)(feed.first())
    noted.assert_reached(f"running {operation}")


@pytest.mark.parametrize("point", ALONE)
def test_an_operation_goes_through_the_call(point, monkeypatch):
    x = ops.ones((4, 2))
    noted = Noted(point, monkeypatch, end=True)
    with suppress(ReachedError):
        ALONE[point](x)
    noted.assert_reached(f"keras.ops.{POINTS[point][1]}")


def test_every_wrapped_call_is_tested():
    assert {*ALONE, *(point for point, _, _ in TRACED)} == set(POINTS)


# Only `keras_internals.py` uses private parts.


def private_parts(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Returns the private attributes read by `private`, and those read without it."""
    asked, stray = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("private"), args=[_, ast.Constant(name)]):
                asked.add(name)
            case ast.Attribute(value=ast.Name("self")):
                pass
            case ast.Attribute(attr=name) if name.startswith("_") and name[1] != "_":
                stray.add(name)
            case ast.ImportFrom(module=str(name)) if name.startswith("keras.src"):
                stray.add(name)
    return asked, stray


def test_private_parts_are_used_in_one_module_and_tested():
    asked: set[str] = set()
    for path in Path(layertap.__file__).parent.rglob("*.py"):
        names, stray = private_parts(ast.parse(path.read_text("utf-8")))
        asked |= names
        traces = "tracing" in path.parts
        assert not (traces and stray) or path.name == "keras_internals.py", path.name
    calls, of_backends = {"numpy", "core", "rnn"}, {"_trace", "_version", "_autograph"}
    of_backends |= {"_is_functional_tensor", "_update_input"}
    assert asked - calls - of_backends == set(PRIVATE)
