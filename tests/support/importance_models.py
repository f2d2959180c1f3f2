"""A model whose branches are its inputs, doubled, and whose weights are known."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from click.testing import CliRunner
from keras import layers

import layertap
from layertap.cli import main

ROWS = 64
# The weights of the branches `a`, of one number, and `b`, of two.
WEIGHTS = np.array([[2.0], [0.5], [0.0]], "float32")


def model() -> keras.Model:
    """Returns a model whose branches are its inputs, doubled."""
    x = keras.Input((3,), name="x")
    branches = [
        layers.Dense(n, use_bias=False, name=name)(x)
        for n, name in ((1, "a"), (2, "b"))
    ]
    joined = layers.Concatenate(name="fusion")(branches)
    made = keras.Model(x, layers.Dense(1, use_bias=False, name="out")(joined))
    kernel = 2 * np.eye(3, dtype="float32")
    made.set_weights([kernel[:, :1], kernel[:, 1:], WEIGHTS])
    return made


def inputs() -> np.ndarray:
    x = np.random.default_rng(3).normal(size=(ROWS, 3)).astype("float32")
    x[:, 2] = 1.5
    return x


def head() -> keras.Model:
    _, made = layertap.split(model())
    return made


def save(path: Path) -> layertap.Saved:
    """Saves the branches, with the outputs as labels: the own loss is zero."""
    x = inputs()
    return layertap.save(model(), (x, 2 * x @ WEIGHTS), path, for_head=True)


def command(*words: Any) -> Any:
    """Runs the command line."""
    return CliRunner().invoke(main, list(map(str, words)))
