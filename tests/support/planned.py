"""A small model with one join, for plans."""

import keras
import numpy as np
from keras import layers

from layertap.core.plan import Plan

ROWS = 5


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


def two_branches() -> keras.Model:
    x = keras.Input((8,), name="x")
    left = layers.Dense(4, name="left")(x)
    right = layers.Dense(6, name="right")(x)
    joined = layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, layers.Dense(1, name="head")(joined), name="two")


def sizes(plan: Plan) -> dict[str, tuple[int | None, ...]]:
    return {value.address: value.shape for value in plan.values}
