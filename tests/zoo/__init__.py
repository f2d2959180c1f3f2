"""Models with joins, each with branch values that were computed without layertap.

A case builds one model and says what flows into each of its joins. The values are
worked out in NumPy, from the model's weights, by `run`: no graph, no listening and no
Keras computation takes part. `tests/zoo/test_zoo.py` shows that they are right:
joined, and sent through the rest of the model by hand, they give the model's output.

Sizes differ within a model wherever it allows that, so that branches which change
places are seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import keras
import numpy as np
from keras import Input, layers, ops
from keras.layers import Concatenate, Conv2D, Dense, Embedding
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = Any
Outputs = Any
Joined = Mapping[str, Array]

# Backends round, and order their sums, each in its own way.
TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


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
        precision: The coarsest float dtype that values went through.
    """

    name: str
    build: Callable[[], keras.Model]
    inputs: Callable[[int], Inputs]
    truth: Callable[[keras.Model, Inputs], dict[str, Array]]
    joins: dict[str, int]
    made_by: dict[str, str]
    finish: Callable[[keras.Model, Inputs, Joined], Outputs]
    precision: str = "float32"

    def joined(self, truth: Mapping[str, Array]) -> dict[str, Array]:
        """Joins the branches of every join."""
        joined = {}
        for path, axis in self.joins.items():
            count = sum(address.startswith(f"{path}/in/") for address in truth)
            branches = [truth[f"{path}/in/{index}"] for index in range(count)]
            joined[path] = np.concatenate(branches, axis)
        return joined

    def assert_close(self, actual: Array, expected: Array) -> None:
        """Shows two arrays to be of one shape and dtype, and equal but for rounding."""
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        tolerance = TOLERANCES[self.precision]
        np.testing.assert_allclose(
            actual.astype("float64"),
            expected.astype("float64"),
            rtol=tolerance,
            atol=tolerance,
        )


CASES: list[Case] = []

# Cases of which a newer release of Keras is needed, by that release: this one's own
# `model.predict` fails on them.
LATER: list[Case] = []
RELEASE = tuple(map(int, keras.__version__.split(".")[:2]))


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
# the rest. Truths and makers are lists, one entry a branch, by the join's path. Unless
# it says otherwise, a model takes six numbers a row, and its one join is `fusion`, at
# axis 1, followed by `head`.

Branches = dict[str, list[Array]]


def through(*paths: str, join: str = "fusion") -> Callable[..., Array]:
    """Finishes a model whose last join is followed by these layers, and no more."""
    return lambda model, x, joined: run(model, joined[join], *paths)


def six_numbers(rows: int) -> Array:
    return numbers(rows, 6)


def case(
    *,
    truth: Callable[[keras.Model, Inputs], Branches],
    inputs: Callable[[int], Inputs] = six_numbers,
    joins: dict[str, int] | None = None,
    made_by: Mapping[str, list[str | None]] | None = None,
    finish: Callable[[keras.Model, Inputs, Joined], Outputs] | None = None,
    precision: str = "float32",
    since: tuple[int, int] = (3, 0),
) -> Callable[[Callable[[], keras.Model]], Callable[[], keras.Model]]:
    def register(function: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        def build() -> keras.Model:
            # Starts Keras' counter of automatic names anew.
            keras.utils.clear_session(free_memory=False)
            model = function()
            give_values(model)
            return model

        def values(model: keras.Model, x: Inputs) -> dict[str, Array]:
            return by_address(truth(model, x))

        makers = by_address(made_by or {})
        known = {address: maker for address, maker in makers.items() if maker}
        (CASES if since <= RELEASE else LATER).append(
            Case(
                name=function.__name__,
                build=build,
                inputs=inputs,
                truth=values,
                joins=joins or {"fusion": 1},
                made_by=known,
                finish=finish or through("head"),
                precision=precision,
            )
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


def _two_ops_in_graph_truth(m: keras.Model, x: list[Array]) -> Branches:
    left, right = run(m, x[0], "left"), run(m, x[0], "right")
    first = np.concatenate([left, right], axis=1)
    return {
        "concatenate": [left, right],
        "concatenate_1": [run(m, x[1], "third"), first],
    }


@case(
    inputs=lambda rows: [numbers(rows, 4, 6), numbers(rows, 8, 6)],
    truth=_two_ops_in_graph_truth,
    joins={"concatenate": 1, "concatenate_1": 2},
    made_by={
        "concatenate": ["left", "right"],
        "concatenate_1": ["third", "concatenate"],
    },
    finish=through("head", join="concatenate_1"),
)
def two_ops_in_graph() -> keras.Model:
    x, y = Input((4, 6), name="x"), Input((8, 6), name="y")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(5, name="right")(x)
    first = ops.concatenate([left, right], axis=1)
    second = ops.concatenate([Dense(3, name="third")(y), first], axis=-1)
    return keras.Model([x, y], Dense(2, name="head")(second))


# Inputs and outputs.


@case(
    truth=lambda m, x: {"fusion": [x, run(m, x, "dense")]},
    made_by={"fusion": ["x", "dense"]},
)
def branch_from_input() -> keras.Model:
    x = Input((6,), name="x")
    joined = Concatenate(name="fusion")([x, Dense(4, name="dense")(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: {
        "right": numbers(rows, 7),
        "left": numbers(rows, 5),
        "ahead": numbers(rows, 2),
    },
    truth=lambda m, x: {
        "fusion": [run(m, x["left"], "small"), run(m, x["right"], "big"), x["ahead"]]
    },
    made_by={"fusion": ["small", "big", "ahead"]},
)
def dict_inputs() -> keras.Model:
    x = {
        "right": Input((7,), name="right"),
        "left": Input((5,), name="left"),
        "ahead": Input((2,), name="ahead"),
    }
    small = Dense(3, activation="relu", name="small")(x["left"])
    big = Dense(8, name="big")(x["right"])
    joined = Concatenate(name="fusion")([small, big, x["ahead"]])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 7), numbers(rows, 5)],
    truth=lambda m, x: {"fusion": [run(m, x[1], "small"), run(m, x[0], "big")]},
    made_by={"fusion": ["small", "big"]},
)
def list_inputs() -> keras.Model:
    x, y = Input((7,), name="x"), Input((5,), name="y")
    small = Dense(3, activation="relu", name="small")(y)
    joined = Concatenate(name="fusion")([small, Dense(8, name="big")(x)])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [ids(rows, 3, below=9), ids(rows, 4, below=9)],
    truth=lambda m, x: {"fusion": [x[0], x[1]]},
    made_by={"fusion": ["first", "second"]},
    finish=through("table", "flat", "head"),
)
def integer_branches() -> keras.Model:
    first = Input((3,), name="first", dtype="int32")
    second = Input((4,), name="second", dtype="int32")
    joined = Concatenate(name="fusion", dtype="int32")([first, second])
    flat = layers.Flatten(name="flat")(Embedding(9, 5, name="table")(joined))
    return keras.Model([first, second], Dense(2, name="head")(flat))


@case(
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    made_by={"fusion": ["left", "right"]},
    finish=lambda m, x, joined: joined["fusion"],
)
def join_is_the_output() -> keras.Model:
    x = Input((6,), name="x")
    branches = [Dense(5, name="left")(x), Dense(3, name="right")(x)]
    return keras.Model(x, Concatenate(name="fusion")(branches))


@case(
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    made_by={"fusion": ["left", "right"]},
    finish=lambda m, x, joined: {
        "price": run(m, joined["fusion"], "price"),
        "kind": run(m, joined["fusion"], "kind"),
        "aside": run(m, x, "left", "aside"),
    },
)
def several_outputs() -> keras.Model:
    x = Input((6,), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    joined = Concatenate(name="fusion")([left, Dense(3, name="right")(x)])
    outputs = {
        "price": Dense(1, name="price")(joined),
        "kind": Dense(4, activation="softmax", name="kind")(joined),
        "aside": Dense(2, name="aside")(left),
    }
    return keras.Model(x, outputs)


# Several joins.


@case(
    truth=lambda m, x: {
        "early": [run(m, x, "a"), run(m, x, "b")],
        "late": [run(m, x, "c"), run(m, x, "d"), run(m, x, "e")],
    },
    joins={"early": 1, "late": 1},
    made_by={"early": ["a", "b"], "late": ["c", "d", "e"]},
    finish=lambda m, x, joined: [
        run(m, joined["early"], "first_head"),
        run(m, joined["late"], "second_head"),
    ],
)
def several_joins() -> keras.Model:
    x = Input((6,), name="x")
    a, b, c, d, e = (
        Dense(units, name=name)(x) for units, name in enumerate("abcde", start=2)
    )
    first = Dense(1, name="first_head")(Concatenate(name="early")([a, b]))
    second = Dense(2, name="second_head")(Concatenate(name="late")([c, d, e]))
    return keras.Model(x, [first, second])


def _growing_truth(m: keras.Model, x: Array) -> Branches:
    first = [run(m, x, "stem"), run(m, x, "stem", "a")]
    grown = np.concatenate(first, axis=1)
    second = [grown, run(m, grown, "b")]
    grown = np.concatenate(second, axis=1)
    return {"first": first, "second": second, "third": [grown, run(m, grown, "c")]}


@case(
    truth=_growing_truth,
    joins={"first": 1, "second": 1, "third": 1},
    made_by={
        "first": ["stem", "a"],
        "second": ["first", "b"],
        "third": ["second", "c"],
    },
    finish=through("head", join="third"),
)
def join_feeds_join() -> keras.Model:
    """Grows as DenseNet does."""
    x = Input((6,), name="x")
    grown = Dense(7, activation="relu", name="stem")(x)
    for units, (join, name) in enumerate(
        [("first", "a"), ("second", "b"), ("third", "c")], start=2
    ):
        more = Dense(units, activation="relu", name=name)(grown)
        grown = Concatenate(name=join)([grown, more])
    return keras.Model(x, Dense(2, name="head")(grown))


@case(
    truth=lambda m, x: {
        "one": [run(m, x, "common"), run(m, x, "left")],
        "other": [run(m, x, "right"), run(m, x, "common")],
    },
    joins={"one": 1, "other": 1},
    made_by={"one": ["common", "left"], "other": ["right", "common"]},
    finish=lambda m, x, joined: [
        run(m, joined["one"], "first_head"),
        run(m, joined["other"], "second_head"),
    ],
)
def one_tensor_in_two_joins() -> keras.Model:
    x = Input((6,), name="x")
    common = Dense(5, activation="relu", name="common")(x)
    one = Concatenate(name="one")([common, Dense(3, name="left")(x)])
    other = Concatenate(name="other")([Dense(4, name="right")(x), common])
    return keras.Model(
        x, [Dense(2, name="first_head")(one), Dense(1, name="second_head")(other)]
    )


@case(
    truth=lambda m, x: {
        "fusion": [run(m, x, "twin"), run(m, x, "other"), run(m, x, "twin")]
    },
    made_by={"fusion": ["twin", "other", "twin"]},
)
def one_tensor_twice_in_a_join() -> keras.Model:
    x = Input((6,), name="x")
    twin, other = Dense(5, name="twin")(x), Dense(3, name="other")(x)
    joined = Concatenate(name="fusion")([twin, other, twin])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {
        "fusion": [
            state.astype("float32")
            for state in recur(find(m, "lstm"), x, lstm_step)[1:]
        ]
    },
    made_by={"fusion": ["lstm", "lstm"]},
)
def two_outputs_of_one_layer() -> keras.Model:
    x = Input((4, 6), name="x")
    _, hidden, carried = layers.LSTM(
        5, return_sequences=True, return_state=True, name="lstm"
    )(x)
    joined = Concatenate(name="fusion")([hidden, carried])
    return keras.Model(x, Dense(2, name="head")(joined))


# Shared layers and nested models. `@2` counts calls in the order in which Keras runs
# them, which for a functional graph is its own, not that in which they were written.


@case(
    inputs=lambda rows: [numbers(rows, 6), numbers(rows, 6, seed=1)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "shared"), run(m, x[1], "shared")]},
    made_by={"fusion": ["shared", "shared@2"]},
)
def shared_layer() -> keras.Model:
    x, y = Input((6,), name="x"), Input((6,), name="y")
    shared = Dense(5, activation="relu", name="shared")
    joined = Concatenate(name="fusion")([shared(x), shared(y)])
    return keras.Model([x, y], Dense(2, name="head")(joined))


def encoder(width: int, name: str = "encoder") -> keras.Model:
    x = Input((width,), name="encoder_input")
    small = Dense(3, activation="tanh", name="small")(x)
    big = Dense(5, name="big")(x)
    return keras.Model(x, Concatenate(name="mixed")([small, big]), name=name)


def encoded(m: keras.Model, x: Array, path: str = "encoder") -> list[Array]:
    return [run(m, x, f"{path}/small"), run(m, x, f"{path}/big")]


@case(
    truth=lambda m, x: {"encoder/mixed": encoded(m, x)},
    joins={"encoder/mixed": 1},
    made_by={"encoder/mixed": ["encoder/small", "encoder/big"]},
    finish=through("head", join="encoder/mixed"),
)
def nested() -> keras.Model:
    x = Input((6,), name="x")
    return keras.Model(x, Dense(2, name="head")(encoder(6)(x)))


@case(
    truth=lambda m, x: {
        "encoder/mixed": [run(m, x, "stem"), run(m, x, "stem", "encoder/small")],
        "fusion": [
            np.concatenate(
                [run(m, x, "stem"), run(m, x, "stem", "encoder/small")], axis=1
            ),
            run(m, x, "aside"),
        ],
    },
    joins={"encoder/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["stem", "encoder/small"],
        "fusion": ["encoder", "aside"],
    },
)
def nested_with_branch_from_its_input() -> keras.Model:
    inner = Input((4,), name="encoder_input")
    small = Dense(3, activation="relu", name="small")(inner)
    mixed = Concatenate(name="mixed")([inner, small])
    inside = keras.Model(inner, mixed, name="encoder")

    x = Input((6,), name="x")
    outside = inside(Dense(4, activation="tanh", name="stem")(x))
    joined = Concatenate(name="fusion")([outside, Dense(2, name="aside")(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


def _nested_twice_truth(m: keras.Model, x: list[Array]) -> Branches:
    first, second = encoded(m, x[0]), encoded(m, x[1])
    return {
        "encoder/mixed": first,
        "encoder@2/mixed": second,
        "fusion": [np.concatenate(first, axis=1), np.concatenate(second, axis=1)],
    }


@case(
    inputs=lambda rows: [numbers(rows, 6), numbers(rows, 6, seed=1)],
    truth=_nested_twice_truth,
    joins={"encoder/mixed": 1, "encoder@2/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["encoder/small", "encoder/big"],
        "encoder@2/mixed": ["encoder@2/small", "encoder@2/big"],
        "fusion": ["encoder", "encoder@2"],
    },
)
def nested_twice() -> keras.Model:
    x, y = Input((6,), name="x"), Input((6,), name="y")
    inside = encoder(6)
    joined = Concatenate(name="fusion")([inside(x), inside(y)])
    return keras.Model([x, y], Dense(2, name="head")(joined))


def _nested_out_of_order_truth(m: keras.Model, x: list[Array]) -> Branches:
    left, right = encoded(m, x[0]), encoded(m, x[1])
    return {
        "encoder/mixed": left,
        "encoder@2/mixed": right,
        "fusion": [
            run(m, np.concatenate(left, axis=1), "after_left"),
            run(m, np.concatenate(right, axis=1), "after_right"),
        ],
    }


@case(
    inputs=lambda rows: [numbers(rows, 6), numbers(rows, 6, seed=1)],
    truth=_nested_out_of_order_truth,
    joins={"encoder/mixed": 1, "encoder@2/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["encoder/small", "encoder/big"],
        "encoder@2/mixed": ["encoder@2/small", "encoder@2/big"],
        "fusion": ["after_left", "after_right"],
    },
)
def nested_twice_run_out_of_order() -> keras.Model:
    """Keras runs the call on `y` first; that on `x` was written first, and is first."""
    x, y = Input((6,), name="x"), Input((6,), name="y")
    inside = encoder(6)
    left = Dense(4, name="after_left")(inside(x))
    right = Dense(7, name="after_right")(inside(y))
    joined = Concatenate(name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    truth=lambda m, x: {
        "outer/middle/encoder/mixed": encoded(
            m, run(m, x, "outer/before"), "outer/middle/encoder"
        )
    },
    joins={"outer/middle/encoder/mixed": 1},
    made_by={
        "outer/middle/encoder/mixed": [
            "outer/middle/encoder/small",
            "outer/middle/encoder/big",
        ]
    },
    finish=through("outer/middle/after", "head", join="outer/middle/encoder/mixed"),
)
def nested_three_levels() -> keras.Model:
    y = Input((4,), name="middle_input")
    after = Dense(7, activation="tanh", name="after")(encoder(4)(y))
    middle = keras.Model(y, after, name="middle")

    z = Input((6,), name="outer_input")
    before = Dense(4, activation="tanh", name="before")(z)
    outer = keras.Model(z, middle(before), name="outer")

    x = Input((6,), name="x")
    return keras.Model(x, Dense(2, name="head")(outer(x)))


# Sequential models.


@case(
    truth=lambda m, x: {
        "fusion": [run(m, x, "tower/low", "tower/high"), run(m, x, "aside")]
    },
    made_by={"fusion": ["tower", "aside"]},
)
def sequential_inside() -> keras.Model:
    x = Input((6,), name="x")
    tower = keras.Sequential(
        [Dense(7, activation="relu", name="low"), Dense(5, name="high")], name="tower"
    )
    joined = Concatenate(name="fusion")([tower(x), Dense(3, name="aside")(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    truth=lambda m, x: {"encoder/mixed": encoded(m, run(m, x, "stem"))},
    joins={"encoder/mixed": 1},
    made_by={"encoder/mixed": ["encoder/small", "encoder/big"]},
    finish=through("head", join="encoder/mixed"),
)
def sequential_root() -> keras.Model:
    return keras.Sequential(
        [
            Input((6,), name="x"),
            Dense(4, activation="tanh", name="stem"),
            encoder(4),
            Dense(2, name="head"),
        ]
    )


def _functional_in_sequential_truth(m: keras.Model, x: Array) -> Branches:
    inside = encoded(m, run(m, x, "tower/stem"), "tower/encoder")
    return {
        "tower/encoder/mixed": inside,
        "fusion": [
            run(m, x, "aside"),
            run(m, np.concatenate(inside, axis=1), "tower/top"),
        ],
    }


@case(
    truth=_functional_in_sequential_truth,
    joins={"tower/encoder/mixed": 1, "fusion": 1},
    made_by={
        "tower/encoder/mixed": ["tower/encoder/small", "tower/encoder/big"],
        "fusion": ["aside", "tower"],
    },
)
def functional_in_sequential_in_functional() -> keras.Model:
    x = Input((6,), name="x")
    tower = keras.Sequential(
        [
            Dense(4, activation="tanh", name="stem"),
            encoder(4),
            Dense(7, activation="relu", name="top"),
        ],
        name="tower",
    )
    joined = Concatenate(name="fusion")([Dense(3, name="aside")(x), tower(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


# Subclassed models.


@keras.saving.register_keras_serializable("zoo")
class JoinsByLayer(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = Dense(5, activation="relu", name="left")
        self.right = Dense(3, name="right")
        self.fusion = Concatenate(name="fusion")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.fusion([self.left(x), self.right(x)]))


def _joins_by_layer_truth(m: keras.Model, x: Array) -> Branches:
    return {"fusion": [run(m, x, "left"), run(m, x, "right")]}


@case(
    truth=_joins_by_layer_truth,
    made_by={"fusion": ["left", "right"]},
)
def subclassed_by_layer() -> keras.Model:
    return called(JoinsByLayer(), numbers(2, 6))


@case(
    truth=_joins_by_layer_truth,
    made_by={"fusion": ["left", "right"]},
)
def subclassed_never_called() -> keras.Model:
    """Has its weights, but was never told what its inputs look like."""
    model = JoinsByLayer()
    model.left.build((None, 6))
    model.right.build((None, 6))
    model.head.build((None, 8))
    return model


@keras.saving.register_keras_serializable("zoo")
class JoinsByOps(keras.Model):
    """Joins twice in one call, by ops."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = Dense(5, activation="relu", name="left")
        self.right = Dense(3, name="right")
        self.third = Dense(4, name="third")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        first = ops.concatenate([self.left(x), self.right(x)], axis=-1)
        return self.head(ops.concatenate([self.third(x), first], axis=1))


def _joins_by_ops_truth(m: keras.Model, x: Array, inside: str = "") -> Branches:
    first = [run(m, x, f"{inside}left"), run(m, x, f"{inside}right")]
    return {
        f"{inside}concatenate": first,
        f"{inside}concatenate@2": [
            run(m, x, f"{inside}third"),
            np.concatenate(first, axis=1),
        ],
    }


@case(
    truth=_joins_by_ops_truth,
    joins={"concatenate": 1, "concatenate@2": 1},
    made_by={"concatenate": ["left", "right"], "concatenate@2": ["third", None]},
    finish=through("head", join="concatenate@2"),
)
def subclassed_by_two_ops() -> keras.Model:
    return called(JoinsByOps(), numbers(2, 6))


@case(
    truth=lambda m, x: _joins_by_ops_truth(m, x, "block/"),
    joins={"block/concatenate": 1, "block/concatenate@2": 1},
    made_by={
        "block/concatenate": ["block/left", "block/right"],
        "block/concatenate@2": ["block/third", None],
    },
    finish=through("block/head", "top", join="block/concatenate@2"),
)
def subclassed_in_functional() -> keras.Model:
    x = Input((6,), name="x")
    return keras.Model(x, Dense(3, name="top")(JoinsByOps(name="block")(x)))


@keras.saving.register_keras_serializable("zoo")
class JoinsTwiceByOneLayer(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.shared = Dense(4, activation="tanh", name="shared")
        self.squeeze = Dense(6, name="squeeze")
        self.fusion = Concatenate(name="fusion")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        squeezed = self.squeeze(self.fusion([self.shared(x), x]))
        return self.head(self.fusion([squeezed, self.shared(squeezed)]))


def _joins_twice_truth(m: keras.Model, x: Array) -> Branches:
    first = [run(m, x, "shared"), x]
    squeezed = run(m, np.concatenate(first, axis=1), "squeeze")
    return {"fusion": first, "fusion@2": [squeezed, run(m, squeezed, "shared")]}


@case(
    truth=_joins_twice_truth,
    joins={"fusion": 1, "fusion@2": 1},
    made_by={"fusion": ["shared", None], "fusion@2": ["squeeze", "shared@2"]},
    finish=through("head", join="fusion@2"),
)
def subclassed_joins_twice_by_one_layer() -> keras.Model:
    return called(JoinsTwiceByOneLayer(), numbers(2, 6))


@keras.saving.register_keras_serializable("zoo")
class TakesDict(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.small = Dense(3, activation="relu", name="small")
        self.big = Dense(8, name="big")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        branches = [self.small(x["left"]), self.big(x["right"])]
        return {"score": self.head(ops.concatenate(branches, axis=-1))}


@case(
    inputs=lambda rows: {"right": numbers(rows, 7), "left": numbers(rows, 5)},
    truth=lambda m, x: {
        "concatenate": [run(m, x["left"], "small"), run(m, x["right"], "big")]
    },
    joins={"concatenate": 1},
    made_by={"concatenate": ["small", "big"]},
    finish=lambda m, x, joined: {"score": run(m, joined["concatenate"], "head")},
)
def subclassed_with_dict_inputs() -> keras.Model:
    return called(TakesDict(), {"right": numbers(2, 7), "left": numbers(2, 5)})


@keras.saving.register_keras_serializable("zoo")
class HoldsFunctional(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder = encoder(6)
        self.aside = Dense(4, name="aside")
        self.fusion = Concatenate(name="fusion")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.fusion([self.aside(x), self.encoder(x)]))


@case(
    truth=lambda m, x: {
        "encoder/mixed": encoded(m, x),
        "fusion": [run(m, x, "aside"), np.concatenate(encoded(m, x), axis=1)],
    },
    joins={"encoder/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["encoder/small", "encoder/big"],
        "fusion": ["aside", "encoder"],
    },
)
def subclassed_holds_functional() -> keras.Model:
    return called(HoldsFunctional(), numbers(2, 6))


# Layers that join inside.


@keras.saving.register_keras_serializable("zoo")
class Pair(keras.layers.Layer):
    """Concatenates inside its own call."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = Dense(5, activation="relu", name="left")
        self.right = Dense(3, activation="tanh", name="right")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.left.build(input_shape)
        self.right.build(input_shape)

    def call(self, x: Any) -> Any:
        return ops.concatenate([self.left(x), self.right(x)], axis=-1)


def _paired(m: keras.Model, x: Array) -> list[Array]:
    return [run(m, x, "pair/left"), run(m, x, "pair/right")]


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {"pair/concatenate": _paired(m, x)},
    joins={"pair/concatenate": 2},
    made_by={"pair/concatenate": ["pair/left", "pair/right"]},
    finish=through("head", join="pair/concatenate"),
)
def custom_layer() -> keras.Model:
    x = Input((4, 6), name="x")
    return keras.Model(x, Dense(2, name="head")(Pair(name="pair")(x)))


def _custom_layer_twice_truth(m: keras.Model, x: Array) -> Branches:
    first = _paired(m, x)
    middle = run(m, np.concatenate(first, axis=1), "middle")
    return {"pair/concatenate": first, "pair@2/concatenate": _paired(m, middle)}


@case(
    truth=_custom_layer_twice_truth,
    joins={"pair/concatenate": 1, "pair@2/concatenate": 1},
    made_by={
        "pair/concatenate": ["pair/left", "pair/right"],
        "pair@2/concatenate": ["pair@2/left", "pair@2/right"],
    },
    finish=through("head", join="pair@2/concatenate"),
)
def custom_layer_twice() -> keras.Model:
    x = Input((6,), name="x")
    pair = Pair(name="pair")
    middle = Dense(6, activation="tanh", name="middle")(pair(x))
    return keras.Model(x, Dense(2, name="head")(pair(middle)))


@keras.saving.register_keras_serializable("zoo")
class ClassToken(keras.layers.Layer):
    """Puts a learned token before the patches of an image, as a ViT does."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.token = self.add_weight(shape=(1, 1, input_shape[-1]), name="token")

    def call(self, patches: Any) -> Any:
        shape = (ops.shape(patches)[0], 1, patches.shape[-1])
        return ops.concatenate([ops.broadcast_to(self.token, shape), patches], axis=1)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        rows, patches, channels = input_shape
        return rows, patches + 1, channels


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {
        "token/concatenate": [
            np.repeat(
                weights_of(find(m, "token"))[0].astype("float32"), len(x), axis=0
            ),
            run(m, x, "patches"),
        ]
    },
    joins={"token/concatenate": 1},
    made_by={"token/concatenate": [None, "patches"]},
    finish=through("head", join="token/concatenate"),
)
def class_token() -> keras.Model:
    x = Input((4, 6), name="x")
    patches = Dense(5, activation="tanh", name="patches")(x)
    return keras.Model(x, Dense(2, name="head")(ClassToken(name="token")(patches)))


# Recurrent layers in both directions. Which operation made these branches depends on
# the device: on a GPU Keras runs both directions in one.


def both_ways(m: keras.Model, x: Array, step: Callable[..., Any]) -> tuple[Array, ...]:
    """Gives the states of both directions, each at the step that it belongs to."""
    layer = find(m, "bidirectional")
    forwards, *_ = recur(layer.forward_layer, x, step)
    backwards, *_ = recur(layer.backward_layer, x[:, ::-1], step)
    return forwards.astype("float32"), backwards[:, ::-1].astype("float32")


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {"bidirectional/concatenate": [*both_ways(m, x, lstm_step)]},
    joins={"bidirectional/concatenate": 2},
    finish=through("head", join="bidirectional/concatenate"),
)
def bidirectional_sequences() -> keras.Model:
    x = Input((4, 6), name="x")
    lstm = layers.LSTM(5, return_sequences=True)
    both = layers.Bidirectional(lstm, merge_mode="concat")(x)
    return keras.Model(x, Dense(2, name="head")(both))


def _bidirectional_last_truth(m: keras.Model, x: Array) -> Branches:
    forwards, backwards = both_ways(m, x, gru_step)
    return {"bidirectional/concatenate": [forwards[:, -1], backwards[:, 0]]}


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=_bidirectional_last_truth,
    joins={"bidirectional/concatenate": 1},
    finish=through("head", join="bidirectional/concatenate"),
)
def bidirectional_last() -> keras.Model:
    x = Input((4, 6), name="x")
    both = layers.Bidirectional(layers.GRU(5), merge_mode="concat")(x)
    return keras.Model(x, Dense(2, name="head")(both))


# Mixed precision. The edges of these graphs don't say what the join receives: it casts
# its inputs to its own dtype first.


def _mixed(policy: str, join: str) -> keras.Model:
    half = keras.DTypePolicy(policy)
    x = Input((6,), name="x", dtype="float32")
    left = Dense(5, activation="relu", name="left", dtype=half)(x)
    right = Dense(3, name="right", dtype=half)(x)
    joined = Concatenate(name="fusion", dtype=join)([left, right, x])
    return keras.Model(x, Dense(2, name="head", dtype="float32")(joined))


def _mixed_truth(m: keras.Model, x: Array) -> Branches:
    received = find(m, "fusion").compute_dtype
    branches = [run(m, x, "left"), run(m, x, "right"), x]
    return {"fusion": [branch.astype(received) for branch in branches]}


@case(
    truth=_mixed_truth,
    made_by={"fusion": ["left", "right", None]},
    precision="float16",
)
def mixed_float16() -> keras.Model:
    return _mixed("mixed_float16", join="mixed_float16")


@case(
    truth=_mixed_truth,
    made_by={"fusion": ["left", "right", None]},
    precision="bfloat16",
)
def mixed_bfloat16() -> keras.Model:
    return _mixed("mixed_bfloat16", join="mixed_bfloat16")


@case(
    truth=_mixed_truth,
    made_by={"fusion": [None, None, "x"]},
    precision="float16",
)
def float32_join_of_float16_branches() -> keras.Model:
    return _mixed("mixed_float16", join="float32")


# Layers that act otherwise in training.


@case(
    truth=lambda m, x: {"fusion": [run(m, x, "left", "norm"), run(m, x, "right")]},
    made_by={"fusion": ["norm", "dropout"]},
)
def dropout_and_batch_normalization() -> keras.Model:
    x = Input((6,), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    left = layers.BatchNormalization(name="norm")(left)
    right = Dense(3, activation="relu", name="right")(x)
    right = layers.Dropout(0.5, seed=1, name="dropout")(right)
    joined = Concatenate(name="fusion")([left, right])
    return keras.Model(x, Dense(2, name="head")(joined))


# Words, times and masks.


@case(
    inputs=lambda rows: ids(rows, 5, below=11),
    truth=lambda m, x: {"fusion": [run(m, x, "words"), run(m, x, "shapes")]},
    joins={"fusion": 2},
    made_by={"fusion": ["words", "shapes"]},
    finish=through("pool", "head"),
)
def embeddings() -> keras.Model:
    x = Input((5,), name="x", dtype="int32")
    words = Embedding(11, 4, name="words")(x)
    shapes = Embedding(11, 3, name="shapes")(x)
    joined = Concatenate(name="fusion")([words, shapes])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model(x, Dense(2, name="head")(pooled))


def _mean_where(kept: Array, x: Array) -> Array:
    kept = kept[:, :, None]
    mean = (x * kept).sum(axis=1) / kept.sum(axis=1)
    return mean.astype("float32")


# Before, Keras asked a mask for the number of rows as soon as the model was made.
@case(
    since=(3, 12),
    inputs=lambda rows: [ids(rows, 6, below=4), ids(rows, 6, below=3)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "words"), run(m, x[1], "tags")]},
    joins={"fusion": 2},
    made_by={"fusion": ["words", "tags"]},
    finish=lambda m, x, joined: run(
        m, _mean_where((x[0] != 0) | (x[1] != 0), joined["fusion"]), "head"
    ),
)
def masks_side_by_side() -> keras.Model:
    x = Input((6,), name="x", dtype="int32")
    y = Input((6,), name="y", dtype="int32")
    words = Embedding(4, 5, mask_zero=True, name="words")(x)
    tags = Embedding(3, 2, mask_zero=True, name="tags")(y)
    joined = Concatenate(name="fusion")([words, tags])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model([x, y], Dense(2, name="head")(pooled))


@case(
    since=(3, 12),
    inputs=lambda rows: [ids(rows, 6, below=4), numbers(rows, 3, 5)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "words"), x[1]]},
    made_by={"fusion": ["words", "y"]},
    finish=lambda m, x, joined: run(
        m,
        _mean_where(
            np.concatenate([x[0] != 0, np.ones((len(x[1]), 3), bool)], axis=1),
            joined["fusion"],
        ),
        "head",
    ),
)
def masks_end_to_end() -> keras.Model:
    x, y = Input((6,), name="x", dtype="int32"), Input((3, 5), name="y")
    words = Embedding(4, 5, mask_zero=True, name="words")(x)
    joined = Concatenate(axis=1, name="fusion")([words, y])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model([x, y], Dense(2, name="head")(pooled))


@case(
    inputs=lambda rows: numbers(rows, 5, 8),
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    joins={"fusion": 2},
    made_by={"fusion": ["left", "right"]},
)
def variable_length() -> keras.Model:
    x = Input((None, 8), name="x")
    left = Dense(6, activation="relu", name="left")(x)
    right = Dense(3, name="right")(x)
    joined = Concatenate(axis=-1, name="fusion")([left, right])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: {
        "text": ids(rows, 7, below=12),
        "image": numbers(rows, 6, 5, 2),
        "sensor": numbers(rows, 4, 3),
    },
    truth=lambda m, x: {
        "fusion": [
            run(m, [run(m, x["text"], "words")] * 2, "attention", "strongest"),
            run(m, x["image"], "edges", "mean"),
            run(m, x["sensor"], "reading", "norm"),
        ]
    },
    made_by={"fusion": ["strongest", "mean", "norm"]},
)
def text_image_and_sensor() -> keras.Model:
    x = {
        "text": Input((7,), name="text", dtype="int32"),
        "image": Input((6, 5, 2), name="image"),
        "sensor": Input((4, 3), name="sensor"),
    }
    words = Embedding(12, 4, name="words")(x["text"])
    text = layers.Attention(name="attention")([words, words])
    text = layers.GlobalMaxPooling1D(name="strongest")(text)
    image = Conv2D(5, 3, activation="relu", name="edges")(x["image"])
    image = layers.GlobalAveragePooling2D(name="mean")(image)
    sensor = layers.LSTM(3, name="reading")(x["sensor"])
    sensor = layers.BatchNormalization(name="norm")(sensor)
    joined = Concatenate(name="fusion")([text, image, sensor])
    return keras.Model(x, Dense(2, name="head")(joined))
