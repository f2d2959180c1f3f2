"""A small classifier with two branches, and its data."""

import keras
import numpy as np
from keras import layers, ops

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")
CLASSES = np.random.default_rng(1).integers(0, 3, ROWS)
WEIGHTS = np.linspace(0.5, 2, ROWS).astype("float32")


def close(actual, expected, share=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=share, atol=share)


def branches():
    keras.utils.set_random_seed(3)
    x = keras.Input((6,), name="x")
    left = layers.Dense(4, activation="tanh", name="left")(x)
    right = layers.Dense(3, name="right")(x)
    return x, [left, right]


def classifier():
    x, parts = branches()
    joined = layers.Concatenate(name="fusion")(parts)
    model = keras.Model(x, layers.Dense(3, activation="softmax", name="head")(joined))
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def head_of(model, name="head"):
    return map(ops.convert_to_numpy, model.get_layer(name).weights)


def joined_of(values):
    return np.concatenate([values["fusion/in/0"], values["fusion/in/1"]], axis=1)


def joined_then(function):
    x, parts = branches()
    joined = layers.Concatenate(name="fusion")(parts)
    return keras.Model(x, layers.Dense(2, name="head")(function(joined)))
