"""Recurrent layers in both directions.

Which operation made these branches depends on the device: on a GPU Keras runs both
directions in one.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import Input, layers
from keras.layers import Dense

from tests.zoo.case import Branches, case, numbers, through
from tests.zoo.truth import Array, find, gru_step, lstm_step, recur


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
