"""Models that are split, and their parts."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import layers, ops


def run(model: keras.Model, x: Any) -> list[np.ndarray]:
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]


def assert_same_bits(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.tobytes() == other.tobytes()


def nodes_of(model: keras.Model) -> dict[int, tuple[list[int], list[int]]]:
    return {
        id(layer): (
            list(map(id, layer._inbound_nodes)),
            list(map(id, layer._outbound_nodes)),
        )
        for layer in model._flatten_layers()
    }


def skipping() -> keras.Model:
    """A model in which a branch, `c` and the input run past the join `fusion`."""
    x = keras.Input((6,), name="x")
    a, b = layers.Dense(5, name="a")(x), layers.Dense(4, name="b")(x)
    c = layers.Dense(4, name="c")(b)
    joined = layers.Concatenate(name="fusion")([a, b])
    total = layers.Add(name="total")([layers.Dense(4, name="d")(joined), b, c])
    late = layers.Concatenate(name="late")([total, x])
    return keras.Model(x, [layers.Dense(2, name="out")(late), c])


def six(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")


def encoder(name: str, units: int) -> keras.Model:
    x = keras.Input((6,), name="x")
    both = [layers.Dense(units, name="dense")(x), layers.Dense(3, name="dense_1")(x)]
    joined = layers.Concatenate(name="mixed")(both)
    return keras.Model(x, layers.Dense(3, name="top")(joined), name=name)


def load(path: Any) -> keras.Model:
    with warnings.catch_warnings():
        # Keras expects the names of input layers, which have no slash.
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.models.load_model(path)


class Drops(keras.Model):
    """Joins in its `call`, and drops values of the join when it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = layers.Dense(20), layers.Dense(30)
        self.drop, self.top = layers.Dropout(0.5), layers.Dense(200)

    def call(self, x, training=False):
        joined = ops.concatenate([self.left(x), self.right(x)], axis=-1)
        return self.top(ops.relu(self.drop(joined, training=training)))


class PassesTraining(keras.Model):
    """Passes `training` to a functional model inside: always the same, or its own."""

    def __init__(self, fixed: bool | None) -> None:
        super().__init__(name="passes_training")
        x = keras.Input((6,))
        joined = layers.Concatenate(name="fusion")([layers.Dense(3)(x), x])
        normal = layers.BatchNormalization(name="normal")(joined)
        self.base = keras.Model(x, normal, name="base")
        self.fixed, self.top = fixed, layers.Dense(2, name="top")

    def call(self, x, training=None):
        training = training if self.fixed is None else self.fixed
        return self.top(self.base(x, training=training))
