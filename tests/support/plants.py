"""Rows of plants: numbers, a species and a name each; and models of one input."""

import keras
import numpy as np

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
SPECIES = np.arange(ROWS) % 4
NAMES = np.array([f"plant {i}" for i in range(ROWS)])
COLUMNS = {"x": X, "species": SPECIES, "name": NAMES, "note": np.zeros(ROWS)}


def model() -> keras.Model:
    x = keras.Input((3,), name="x")
    return keras.Model(x, keras.layers.Concatenate(name="fusion")([x, x]), name="one")


class Subclassed(keras.Model):
    """Has no graph: its data may be a dictionary of any names."""

    def call(self, x):
        x = x["x"] if isinstance(x, dict) else x
        return keras.ops.concatenate([x, 2 * x], axis=-1)
