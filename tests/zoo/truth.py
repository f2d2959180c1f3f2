"""Runs layers in NumPy: the branches' true values come from here."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.layers import Conv2D, Dense, Embedding
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]


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
