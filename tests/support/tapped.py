"""A small model to be tapped, and its branches by hand."""

import keras
import numpy as np
from keras import layers

X = np.random.default_rng(1).normal(size=(8, 6)).astype("float32")


@keras.saving.register_keras_serializable("tapped")
class Scaled(layers.Layer):
    """Multiplies by a number of Python."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


def network():
    x = keras.Input((6,), name="x")
    a = layers.Dense(3, name="a")(x)
    b = layers.Dense(4, activation="tanh", name="b")(Scaled(name="scaled")(x))
    joined = layers.Concatenate(name="fusion")([a, b, x])
    return keras.Model(x, layers.Dense(1, name="head")(joined), name="network")


def expected(model, x=X):
    a, b = model.get_layer("a"), model.get_layer("b")
    (wa, ca), (wb, cb) = a.get_weights(), b.get_weights()
    scaled = x * model.get_layer("scaled").factor
    return {
        "fusion/in/0": x @ wa + ca,
        "fusion/in/1": np.tanh(scaled @ wb + cb),
        "fusion/in/2": x,
    }


def close(values, expected):
    assert list(values) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(values[name], array, rtol=1e-4, atol=1e-5)


def assert_equal(values, others):
    assert list(values) == list(others)
    for name, array in others.items():
        np.testing.assert_array_equal(values[name], array)
