"""A small model with one join, and its data."""

import keras
import numpy as np


def two_branches(width: int = 16) -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    left = keras.layers.Dense(width, activation="relu", name="left")(x)
    right = keras.layers.Dense(2 * width, name="right")(x)
    joined = keras.layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, keras.layers.Dense(1, name="head")(joined), name="two")


def numbers(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 8)).astype("float32")


class DataBrokeError(Exception):
    """Raised by the data."""
