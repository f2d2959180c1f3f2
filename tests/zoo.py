"""Models with joins, each with branch values that were computed without layertap.

A case builds one model and says what flows into each of its joins. The values are
worked out in NumPy, from the model's weights, by `run`: no graph, no listening and no
Keras computation takes part. `tests/backends/test_zoo.py` shows that they are right:
joined, and sent through the rest of the model by hand, they give the model's output.

Sizes differ within a model wherever it allows that, so that branches which change
places are seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import Input, layers, ops
from keras.layers import Concatenate, Conv2D, Dense, Embedding
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Inputs = Any
Outputs = Any
Joined = Mapping[str, Array]

# Backends round, and order their sums, each in its own way.
TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2, "int32": 0}


@dataclass(frozen=True)
class Case:
    """One model, and what is known of it beforehand.

    Attributes:
        name: Of the case.
        build: Gives the model anew: same names, same weights, on every backend.
        inputs: Gives so many rows of what `model.predict` takes. Fewer rows are the
            first of more.
        truth: Gives the branches' true values for these inputs, by address, in the
            dtype in which the join receives them.
        joins: The joins' paths, with their axes, rows being axis 0.
        made_by: Addresses, with the path of the operation that the branch came from
            or the name of the model's input; only where there's one right answer.
        finish: Gives the model's outputs for these inputs and joined values.
    """

    name: str
    build: Callable[[], keras.Model]
    inputs: Callable[[int], Inputs]
    truth: Callable[[keras.Model, Inputs], dict[str, Array]]
    joins: dict[str, int]
    made_by: dict[str, str]
    finish: Callable[[keras.Model, Inputs, Joined], Outputs]

    def joined(self, truth: Mapping[str, Array]) -> dict[str, Array]:
        """Joins the branches of every join."""
        joined = {}
        for path, axis in self.joins.items():
            count = sum(address.startswith(f"{path}/in/") for address in truth)
            branches = [truth[f"{path}/in/{index}"] for index in range(count)]
            joined[path] = np.concatenate(branches, axis)
        return joined


CASES: list[Case] = []


def assert_close(actual: Array, expected: Array, at: DTypeLike = None) -> None:
    """Shows that two arrays agree in shape and dtype, and in value but for rounding.

    Args:
        actual: What was found.
        expected: What is true.
        at: The dtype whose rounding is allowed for. By default that of `expected`.
    """
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    tolerance = TOLERANCES[np.dtype(at or expected.dtype).name]
    np.testing.assert_allclose(
        actual.astype("float64"),
        expected.astype("float64"),
        rtol=tolerance,
        atol=tolerance,
    )


# Inputs and weights.


def numbers(rows: int, *shape: int, seed: int = 0) -> Array:
    random = np.random.default_rng((seed, *shape))
    return random.standard_normal((rows, *shape), dtype="float32")


def ids(rows: int, length: int, *, below: int) -> Array:
    """Gives ids with zeros among them, for masking, but none to start a row."""
    random = np.random.default_rng((length, below))
    values = random.integers(0, below, (rows, length)).astype("int32")
    values[:, 0] = 1 + values[:, 0] % (below - 1)
    return values


def give_values(model: keras.Model) -> None:
    """Sets every weight, biases and moving statistics too, alike on all backends."""
    random = np.random.default_rng(7)
    for weight in model.weights:
        values = random.standard_normal(weight.shape)
        if "kernel" in weight.name:
            values /= np.sqrt(np.prod(weight.shape[:-1]))
        elif weight.name in ("gamma", "moving_variance"):
            values = 0.5 + np.abs(values)
        weight.assign(values.astype("float32"))


def called(model: keras.Model, x: Inputs) -> keras.Model:
    """Calls a subclassed model, which has no weights before its first call."""
    model(x)
    return model


# Layers by hand.


def run(model: keras.Model, x: Any, *paths: str) -> Array:
    """Sends values through layers of a model, one after the other, in NumPy."""
    for path in paths:
        layer = find(model, path)
        arrays = [x] if isinstance(x, np.ndarray) else x
        exact = [_rounded(array, layer).astype("float64") for array in arrays]
        x = forward(layer, *exact).astype(layer.compute_dtype)
    return x


def find(model: keras.Model, path: str) -> keras.layers.Layer:
    layer = model
    for name in path.split("/"):
        held = isinstance(layer, keras.Model)
        layer = layer.get_layer(name) if held else getattr(layer, name)
    return layer


def weights_of(layer: keras.layers.Layer) -> list[Array]:
    return [_rounded(array, layer).astype("float64") for array in layer.get_weights()]


def _rounded(array: Array, layer: keras.layers.Layer) -> Array:
    is_integer = np.issubdtype(array.dtype, np.integer)
    return array if is_integer else array.astype(layer.compute_dtype)


@singledispatch
def forward(layer: keras.layers.Layer, x: Array) -> Array:
    raise NotImplementedError(f"No NumPy version of {type(layer).__name__}.")


@forward.register
def _(layer: Dense, x: Array) -> Array:
    kernel, bias = weights_of(layer)
    return activate(layer.activation, x @ kernel + bias)


@forward.register
def _(layer: Conv2D, x: Array) -> Array:
    kernel, bias = weights_of(layer)
    height, width = kernel.shape[:2]
    if layer.padding == "same":
        vertical, horizontal = (height // 2,) * 2, (width // 2,) * 2
        x = np.pad(x, ((0, 0), vertical, horizontal, (0, 0)))
    windows = sliding_window_view(x, (height, width), (1, 2))
    sums = np.einsum("nyxcij,ijcd->nyxd", windows, kernel, optimize=True)
    return activate(layer.activation, sums + bias)


@forward.register
def _(layer: layers.MaxPooling2D, x: Array) -> Array:
    rows, height, width, channels = x.shape
    down, across = layer.pool_size
    cut = x[:, : height // down * down, : width // across * across]
    shape = (rows, height // down, down, width // across, across, channels)
    return cut.reshape(shape).max(axis=(2, 4))


@forward.register(layers.GlobalMaxPooling1D)
@forward.register(layers.GlobalMaxPooling2D)
def _(layer: keras.layers.Layer, x: Array) -> Array:
    return x.max(axis=tuple(range(1, x.ndim - 1)))


@forward.register(layers.GlobalAveragePooling1D)
@forward.register(layers.GlobalAveragePooling2D)
def _(layer: keras.layers.Layer, x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


@forward.register
def _(layer: layers.Flatten, x: Array) -> Array:
    return x.reshape(len(x), -1)


@forward.register
def _(layer: layers.BatchNormalization, x: Array) -> Array:
    gamma, beta, mean, variance = weights_of(layer)
    return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta


@forward.register
def _(layer: Embedding, x: Array) -> Array:
    (table,) = weights_of(layer)
    return table[x.astype(int)]


@forward.register
def _(layer: layers.Attention, query: Array, value: Array) -> Array:
    return softmax(query @ np.swapaxes(value, 1, 2)) @ value


@forward.register
def _(layer: layers.LSTM, x: Array) -> Array:
    sequence, *_ = recur(layer, x, lstm_step)
    return sequence if layer.return_sequences else sequence[:, -1]


def recur(layer: layers.RNN, x: Array, step: Callable[..., tuple[Array, Array]]) -> Any:
    """Gives every state of an RNN in the order of its steps, and the last ones."""
    weights = weights_of(layer)
    hidden = carried = np.zeros((len(x), layer.units))
    states = []
    for moment in range(x.shape[1]):
        hidden, carried = step(weights, x[:, moment], hidden, carried)
        states.append(hidden)
    return np.stack(states, axis=1), hidden, carried


def lstm_step(weights: list[Array], x: Array, hidden: Array, carried: Array) -> Any:
    kernel, recurrent, bias = weights
    gates = np.split(x @ kernel + hidden @ recurrent + bias, 4, axis=1)
    admit, forget, candidate, show = gates
    carried = sigmoid(forget) * carried + sigmoid(admit) * np.tanh(candidate)
    return sigmoid(show) * np.tanh(carried), carried


def gru_step(weights: list[Array], x: Array, hidden: Array, carried: Array) -> Any:
    kernel, recurrent, (bias, recurrent_bias) = weights
    seen = np.split(x @ kernel + bias, 3, axis=1)
    kept = np.split(hidden @ recurrent + recurrent_bias, 3, axis=1)
    update, reset = sigmoid(seen[0] + kept[0]), sigmoid(seen[1] + kept[1])
    candidate = np.tanh(seen[2] + reset * kept[2])
    return update * hidden + (1 - update) * candidate, carried


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def activate(activation: Callable[..., Any], x: Array) -> Array:
    by_hand = {
        "linear": lambda x: x,
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": sigmoid,
        "softmax": softmax,
        "tanh": np.tanh,
    }
    return by_hand[activation.__name__](x)


# How a case is told: a function that builds the model, under a decorator that says
# the rest. Truths and makers are lists, one entry a branch, by the join's path.

Branches = dict[str, list[Array]]


def through(*paths: str, join: str = "fusion") -> Callable[..., Array]:
    """Finishes a model whose last join is followed by these layers, and no more."""
    return lambda model, x, joined: run(model, joined[join], *paths)


def case(
    *,
    inputs: Callable[[int], Inputs],
    truth: Callable[[keras.Model, Inputs], Branches],
    joins: dict[str, int],
    made_by: Mapping[str, list[str | None]] | None = None,
    finish: Callable[[keras.Model, Inputs, Joined], Outputs] = through("head"),
) -> Callable[[Callable[[], keras.Model]], Callable[[], keras.Model]]:
    def register(function: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        def build() -> keras.Model:
            # Starts Keras' counter of automatic names anew.
            keras.utils.clear_session(free_memory=False)
            keras.utils.set_random_seed(1)
            model = function()
            give_values(model)
            return model

        def values(model: keras.Model, x: Inputs) -> dict[str, Array]:
            return by_address(truth(model, x))

        makers = by_address(made_by or {})
        known = {address: maker for address, maker in makers.items() if maker}
        CASES.append(
            Case(function.__name__, build, inputs, values, joins, known, finish)
        )
        return function

    return register


def by_address(entries: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {
        f"{path}/in/{index}": entry
        for path, branches in entries.items()
        for index, entry in enumerate(branches)
    }


# The article's three examples, as written there: its models of the branches too.


@case(
    inputs=lambda rows: numbers(rows, 10),
    truth=lambda m, x: {"concatenate": [run(m, x, "dense"), run(m, x, "dense_1")]},
    joins={"concatenate": 1},
    made_by={"concatenate": ["dense", "dense_1"]},
    finish=through("dense_2", join="concatenate"),
)
def article_two_dense() -> keras.Model:
    input_tensor = Input(shape=(10,))
    branch1 = Dense(64, activation="relu")(input_tensor)
    branch2 = Dense(32, activation="relu")(input_tensor)
    keras.Model(inputs=input_tensor, outputs=branch1)
    keras.Model(inputs=input_tensor, outputs=branch2)
    merged = layers.concatenate([branch1, branch2])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)


@case(
    inputs=lambda rows: numbers(rows, 28, 28, 1),
    truth=lambda m, x: {
        "concatenate": [
            run(m, x, "conv2d", "max_pooling2d", "flatten"),
            run(m, x, "conv2d_1", "max_pooling2d_1", "flatten_1"),
        ]
    },
    joins={"concatenate": 1},
    made_by={"concatenate": ["flatten", "flatten_1"]},
    finish=through("dense", join="concatenate"),
)
def article_convolutions() -> keras.Model:
    input_tensor = Input(shape=(28, 28, 1))
    branch1 = Conv2D(32, (3, 3), activation="relu")(input_tensor)
    branch1 = layers.MaxPooling2D((2, 2))(branch1)
    branch1 = layers.Flatten()(branch1)
    branch2 = Conv2D(16, (3, 3), activation="relu")(input_tensor)
    branch2 = layers.MaxPooling2D((2, 2))(branch2)
    branch2 = layers.Flatten()(branch2)
    keras.Model(inputs=input_tensor, outputs=branch1)
    keras.Model(inputs=input_tensor, outputs=branch2)
    merged = layers.concatenate([branch1, branch2])
    output = Dense(10, activation="softmax")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)


@case(
    inputs=lambda rows: numbers(rows, 10),
    truth=lambda m, x: {
        "concatenate": [run(m, x, name) for name in ("dense", "dense_1", "dense_2")]
    },
    joins={"concatenate": 1},
    made_by={"concatenate": ["dense", "dense_1", "dense_2"]},
    finish=through("dense_3", join="concatenate"),
)
def article_three_dense() -> keras.Model:
    input_tensor = Input(shape=(10,))
    branch1 = Dense(64, activation="relu")(input_tensor)
    branch2 = Dense(32, activation="relu")(input_tensor)
    branch3 = Dense(16, activation="relu")(input_tensor)
    keras.Model(inputs=input_tensor, outputs=branch1)
    keras.Model(inputs=input_tensor, outputs=branch2)
    keras.Model(inputs=input_tensor, outputs=branch3)
    merged = layers.concatenate([branch1, branch2, branch3])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)


# Axes.


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    joins={"fusion": 2},
    made_by={"fusion": ["left", "right"]},
)
def last_axis_of_three() -> keras.Model:
    x = Input((4, 6), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(3, activation="tanh", name="right")(x)
    joined = Concatenate(axis=-1, name="fusion")([left, right])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 3, 4), numbers(rows, 5, 4)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "left"), run(m, x[1], "right")]},
    joins={"fusion": 1},
    made_by={"fusion": ["left", "right"]},
)
def axis_1_of_three() -> keras.Model:
    x, y = Input((3, 4), name="x"), Input((5, 4), name="y")
    left = Dense(6, activation="relu", name="left")(x)
    right = Dense(6, activation="tanh", name="right")(y)
    joined = Concatenate(axis=1, name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 6, 5, 2), numbers(rows, 6, 8, 2)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "left"), run(m, x[1], "right")]},
    joins={"fusion": 2},
    made_by={"fusion": ["left", "right"]},
)
def axis_2_of_four() -> keras.Model:
    x, y = Input((6, 5, 2), name="x"), Input((6, 8, 2), name="y")
    left = Conv2D(3, 3, activation="relu", name="left")(x)
    right = Conv2D(3, 3, name="right")(y)
    joined = Concatenate(axis=2, name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 4, 5, 2), numbers(rows, 7, 5, 2)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "left"), run(m, x[1], "right")]},
    joins={"fusion": 1},
    made_by={"fusion": ["left", "right"]},
)
def axis_minus_3_of_four() -> keras.Model:
    x, y = Input((4, 5, 2), name="x"), Input((7, 5, 2), name="y")
    left = Conv2D(3, 3, activation="relu", name="left")(x)
    right = Conv2D(3, 3, name="right")(y)
    joined = Concatenate(axis=-3, name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: numbers(rows, 7, 6, 3),
    truth=lambda m, x: {
        "fusion": [run(m, x, name) for name in ("narrow", "medium", "wide")]
    },
    joins={"fusion": 3},
    made_by={"fusion": ["narrow", "medium", "wide"]},
)
def last_axis_of_four() -> keras.Model:
    x = Input((7, 6, 3), name="x")
    narrow = Conv2D(2, 1, activation="relu", name="narrow")(x)
    medium = Conv2D(4, 3, padding="same", activation="relu", name="medium")(x)
    wide = Conv2D(3, 5, padding="same", activation="relu", name="wide")(x)
    joined = Concatenate(name="fusion")([narrow, medium, wide])
    return keras.Model(x, Dense(2, name="head")(joined))


# keras.ops.concatenate as a node of a functional graph.


@case(
    inputs=lambda rows: numbers(rows, 6),
    truth=lambda m, x: {"concatenate": [run(m, x, "left"), run(m, x, "right")]},
    joins={"concatenate": 1},
    made_by={"concatenate": ["left", "right"]},
    finish=through("head", join="concatenate"),
)
def op_in_graph() -> keras.Model:
    x = Input((6,), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(3, name="right")(x)
    return keras.Model(x, Dense(2, name="head")(ops.concatenate([left, right], -1)))


def _two_ops_in_graph_truth(m: keras.Model, x: Array) -> Branches:
    left, right = run(m, x, "left"), run(m, x, "right")
    first = np.concatenate([left, right], axis=1)
    return {
        "concatenate": [left, right],
        "concatenate_1": [run(m, x, "third"), run(m, first, "middle")],
    }


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=_two_ops_in_graph_truth,
    joins={"concatenate": 1, "concatenate_1": 2},
    made_by={"concatenate": ["left", "right"], "concatenate_1": ["third", "middle"]},
    finish=lambda m, x, joined: {
        "early": run(m, joined["concatenate"], "early"),
        "late": run(m, joined["concatenate_1"], "late"),
    },
)
def two_ops_in_graph() -> keras.Model:
    x = Input((4, 6), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(5, name="right")(x)
    third = layers.Permute((2, 1), name="third")(x)
    first = ops.concatenate([left, right], axis=1)
    middle = layers.Permute((2, 1), name="middle")(first)
    third = layers.ZeroPadding1D((0, 0), name="padded")(third)
    del third
    third = Dense(3, name="third")(x)
    raise NotImplementedError(middle, third)
