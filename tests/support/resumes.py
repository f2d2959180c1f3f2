"""A save that stops, and its data."""

import keras
import numpy as np
import pytest
from keras import layers

import layertap

# Blocks of some three hundred rows.
SMALL = 3 * 2**16


ROWS, BATCH, STOP = 1000, 20, 620


EVERY = np.arange(ROWS)


class Scaled(layers.Layer):
    """Multiplies by a number that only its code contains."""

    factor = 2.0

    def call(self, x):
        return x * self.factor


def two_branches(vocabulary=(1, 2, 3), mean=0.0, width=16):
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    seen = layers.Normalization(name="seen")
    seen.adapt(np.stack([np.full(8, mean - 1), np.full(8, mean + 1)]))
    scaled = Scaled(name="scaled")(layers.Dense(width, name="left")(seen(x)))
    right = layers.Dense(32, name="right")(x)
    joined = layers.Concatenate(name="fusion")([scaled, right])
    return keras.Model(x, layers.Dense(1, name="head")(joined), name="two")


def numbers():
    return np.random.default_rng(0).normal(size=(ROWS, 8)).astype("float32")


class StoppedError(Exception):
    """Raised to interrupt the data."""


def stream(x, labels=EVERY, stop=None):
    for row in range(0, ROWS, BATCH):
        if row == stop:
            raise StoppedError
        yield x[row : row + BATCH], labels[row : row + BATCH]


def begin(path, *, complete, **options):
    """Saves all rows, or `STOP` of them."""
    options = {"ids": EVERY, "memory": SMALL} | options
    data = stream(numbers(), stop=None if complete else STOP)
    if complete:
        layertap.save(two_branches(), data, path, **options)
    else:
        with pytest.raises(StoppedError):
            layertap.save(two_branches(), data, path, **options)


def other_weights():
    model = two_branches()
    model.get_layer("left").bias.assign(np.ones(16))
    return model


def files(path):
    return {
        file: file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file != path / "zarr.json"
    }


def words():
    return layers.IntegerLookup(name="learned")
