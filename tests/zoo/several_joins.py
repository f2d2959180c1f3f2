"""Functional models with several joins, or one tensor in several places."""

import keras
import numpy as np
from keras import Input, layers
from keras.layers import Concatenate, Dense

from tests.zoo.case import Branches, case, numbers, through
from tests.zoo.truth import Array, find, lstm_step, recur, run


@case(
    truth=lambda m, x: {
        "early": [run(m, x, "a"), run(m, x, "b")],
        "late": [run(m, x, "c"), run(m, x, "d"), run(m, x, "e")],
    },
    joins={"early": 1, "late": 1},
    made_by={"early": ["a", "b"], "late": ["c", "d", "e"]},
    finish=lambda m, x, joined: [
        run(m, joined["early"], "first_head"),
        run(m, joined["late"], "second_head"),
    ],
)
def several_joins() -> keras.Model:
    x = Input((6,), name="x")
    a, b, c, d, e = (
        Dense(units, name=name)(x) for units, name in enumerate("abcde", start=2)
    )
    first = Dense(1, name="first_head")(Concatenate(name="early")([a, b]))
    second = Dense(2, name="second_head")(Concatenate(name="late")([c, d, e]))
    return keras.Model(x, [first, second])


def _growing_truth(m: keras.Model, x: Array) -> Branches:
    first = [run(m, x, "stem"), run(m, x, "stem", "a")]
    grown = np.concatenate(first, axis=1)
    second = [grown, run(m, grown, "b")]
    grown = np.concatenate(second, axis=1)
    return {"first": first, "second": second, "third": [grown, run(m, grown, "c")]}


@case(
    truth=_growing_truth,
    joins={"first": 1, "second": 1, "third": 1},
    made_by={
        "first": ["stem", "a"],
        "second": ["first", "b"],
        "third": ["second", "c"],
    },
    finish=through("head", join="third"),
)
def join_feeds_join() -> keras.Model:
    """Grows as DenseNet does."""
    x = Input((6,), name="x")
    grown = Dense(7, activation="relu", name="stem")(x)
    for units, (join, name) in enumerate(
        [("first", "a"), ("second", "b"), ("third", "c")], start=2
    ):
        more = Dense(units, activation="relu", name=name)(grown)
        grown = Concatenate(name=join)([grown, more])
    return keras.Model(x, Dense(2, name="head")(grown))


@case(
    truth=lambda m, x: {
        "one": [run(m, x, "common"), run(m, x, "left")],
        "other": [run(m, x, "right"), run(m, x, "common")],
    },
    joins={"one": 1, "other": 1},
    made_by={"one": ["common", "left"], "other": ["right", "common"]},
    finish=lambda m, x, joined: [
        run(m, joined["one"], "first_head"),
        run(m, joined["other"], "second_head"),
    ],
)
def one_tensor_in_two_joins() -> keras.Model:
    x = Input((6,), name="x")
    common = Dense(5, activation="relu", name="common")(x)
    one = Concatenate(name="one")([common, Dense(3, name="left")(x)])
    other = Concatenate(name="other")([Dense(4, name="right")(x), common])
    return keras.Model(
        x, [Dense(2, name="first_head")(one), Dense(1, name="second_head")(other)]
    )


@case(
    truth=lambda m, x: {
        "fusion": [run(m, x, "twin"), run(m, x, "other"), run(m, x, "twin")]
    },
    made_by={"fusion": ["twin", "other", "twin"]},
)
def one_tensor_twice_in_a_join() -> keras.Model:
    x = Input((6,), name="x")
    twin, other = Dense(5, name="twin")(x), Dense(3, name="other")(x)
    joined = Concatenate(name="fusion")([twin, other, twin])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {
        "fusion": [
            state.astype("float32")
            for state in recur(find(m, "lstm"), x, lstm_step)[1:]
        ]
    },
    made_by={"fusion": ["lstm", "lstm"]},
)
def two_outputs_of_one_layer() -> keras.Model:
    x = Input((4, 6), name="x")
    _, hidden, carried = layers.LSTM(
        5, return_sequences=True, return_state=True, name="lstm"
    )(x)
    joined = Concatenate(name="fusion")([hidden, carried])
    return keras.Model(x, Dense(2, name="head")(joined))
