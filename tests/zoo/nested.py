"""Shared layers, nested models and Sequential models."""

import keras
import numpy as np
from keras import Input
from keras.layers import Concatenate, Dense

from tests.zoo.case import Branches, case, numbers, through
from tests.zoo.truth import Array, run

# Shared layers and nested models. `@2` counts calls in the order in which Keras runs
# them, which for a functional graph is its own, not that in which they were written.


@case(
    inputs=lambda rows: [numbers(rows, 6), numbers(rows, 6, seed=1)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "shared"), run(m, x[1], "shared")]},
    made_by={"fusion": ["shared", "shared@2"]},
)
def shared_layer() -> keras.Model:
    x, y = Input((6,), name="x"), Input((6,), name="y")
    shared = Dense(5, activation="relu", name="shared")
    joined = Concatenate(name="fusion")([shared(x), shared(y)])
    return keras.Model([x, y], Dense(2, name="head")(joined))


def encoder(width: int, name: str = "encoder") -> keras.Model:
    x = Input((width,), name="encoder_input")
    small = Dense(3, activation="tanh", name="small")(x)
    big = Dense(5, name="big")(x)
    return keras.Model(x, Concatenate(name="mixed")([small, big]), name=name)


def encoded(m: keras.Model, x: Array, path: str = "encoder") -> list[Array]:
    return [run(m, x, f"{path}/small"), run(m, x, f"{path}/big")]


@case(
    truth=lambda m, x: {"encoder/mixed": encoded(m, x)},
    joins={"encoder/mixed": 1},
    made_by={"encoder/mixed": ["encoder/small", "encoder/big"]},
    finish=through("head", join="encoder/mixed"),
)
def nested() -> keras.Model:
    x = Input((6,), name="x")
    return keras.Model(x, Dense(2, name="head")(encoder(6)(x)))


@case(
    truth=lambda m, x: {
        "encoder/mixed": [run(m, x, "stem"), run(m, x, "stem", "encoder/small")],
        "fusion": [
            np.concatenate(
                [run(m, x, "stem"), run(m, x, "stem", "encoder/small")], axis=1
            ),
            run(m, x, "aside"),
        ],
    },
    joins={"encoder/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["stem", "encoder/small"],
        "fusion": ["encoder", "aside"],
    },
)
def nested_with_branch_from_its_input() -> keras.Model:
    inner = Input((4,), name="encoder_input")
    small = Dense(3, activation="relu", name="small")(inner)
    mixed = Concatenate(name="mixed")([inner, small])
    inside = keras.Model(inner, mixed, name="encoder")

    x = Input((6,), name="x")
    outside = inside(Dense(4, activation="tanh", name="stem")(x))
    joined = Concatenate(name="fusion")([outside, Dense(2, name="aside")(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


def _nested_twice_truth(m: keras.Model, x: list[Array]) -> Branches:
    first, second = encoded(m, x[0]), encoded(m, x[1])
    return {
        "encoder/mixed": first,
        "encoder@2/mixed": second,
        "fusion": [np.concatenate(first, axis=1), np.concatenate(second, axis=1)],
    }


@case(
    inputs=lambda rows: [numbers(rows, 6), numbers(rows, 6, seed=1)],
    truth=_nested_twice_truth,
    joins={"encoder/mixed": 1, "encoder@2/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["encoder/small", "encoder/big"],
        "encoder@2/mixed": ["encoder@2/small", "encoder@2/big"],
        "fusion": ["encoder", "encoder@2"],
    },
)
def nested_twice() -> keras.Model:
    x, y = Input((6,), name="x"), Input((6,), name="y")
    inside = encoder(6)
    joined = Concatenate(name="fusion")([inside(x), inside(y)])
    return keras.Model([x, y], Dense(2, name="head")(joined))


def _nested_out_of_order_truth(m: keras.Model, x: list[Array]) -> Branches:
    left, right = encoded(m, x[0]), encoded(m, x[1])
    return {
        "encoder/mixed": left,
        "encoder@2/mixed": right,
        "fusion": [
            run(m, np.concatenate(left, axis=1), "after_left"),
            run(m, np.concatenate(right, axis=1), "after_right"),
        ],
    }


@case(
    inputs=lambda rows: [numbers(rows, 6), numbers(rows, 6, seed=1)],
    truth=_nested_out_of_order_truth,
    joins={"encoder/mixed": 1, "encoder@2/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["encoder/small", "encoder/big"],
        "encoder@2/mixed": ["encoder@2/small", "encoder@2/big"],
        "fusion": ["after_left", "after_right"],
    },
)
def nested_twice_run_out_of_order() -> keras.Model:
    """Keras runs the call on `y` first; that on `x` was written first, and is first."""
    x, y = Input((6,), name="x"), Input((6,), name="y")
    inside = encoder(6)
    left = Dense(4, name="after_left")(inside(x))
    right = Dense(7, name="after_right")(inside(y))
    joined = Concatenate(name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    truth=lambda m, x: {
        "outer/middle/encoder/mixed": encoded(
            m, run(m, x, "outer/before"), "outer/middle/encoder"
        )
    },
    joins={"outer/middle/encoder/mixed": 1},
    made_by={
        "outer/middle/encoder/mixed": [
            "outer/middle/encoder/small",
            "outer/middle/encoder/big",
        ]
    },
    finish=through("outer/middle/after", "head", join="outer/middle/encoder/mixed"),
)
def nested_three_levels() -> keras.Model:
    y = Input((4,), name="middle_input")
    after = Dense(7, activation="tanh", name="after")(encoder(4)(y))
    middle = keras.Model(y, after, name="middle")

    z = Input((6,), name="outer_input")
    before = Dense(4, activation="tanh", name="before")(z)
    outer = keras.Model(z, middle(before), name="outer")

    x = Input((6,), name="x")
    return keras.Model(x, Dense(2, name="head")(outer(x)))


# Sequential models.


@case(
    truth=lambda m, x: {
        "fusion": [run(m, x, "tower/low", "tower/high"), run(m, x, "aside")]
    },
    made_by={"fusion": ["tower", "aside"]},
)
def sequential_inside() -> keras.Model:
    x = Input((6,), name="x")
    tower = keras.Sequential(
        [Dense(7, activation="relu", name="low"), Dense(5, name="high")], name="tower"
    )
    joined = Concatenate(name="fusion")([tower(x), Dense(3, name="aside")(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    truth=lambda m, x: {"encoder/mixed": encoded(m, run(m, x, "stem"))},
    joins={"encoder/mixed": 1},
    made_by={"encoder/mixed": ["encoder/small", "encoder/big"]},
    finish=through("head", join="encoder/mixed"),
)
def sequential_root() -> keras.Model:
    return keras.Sequential(
        [
            Input((6,), name="x"),
            Dense(4, activation="tanh", name="stem"),
            encoder(4),
            Dense(2, name="head"),
        ]
    )


def _functional_in_sequential_truth(m: keras.Model, x: Array) -> Branches:
    inside = encoded(m, run(m, x, "tower/stem"), "tower/encoder")
    return {
        "tower/encoder/mixed": inside,
        "fusion": [
            run(m, x, "aside"),
            run(m, np.concatenate(inside, axis=1), "tower/top"),
        ],
    }


@case(
    truth=_functional_in_sequential_truth,
    joins={"tower/encoder/mixed": 1, "fusion": 1},
    made_by={
        "tower/encoder/mixed": ["tower/encoder/small", "tower/encoder/big"],
        "fusion": ["aside", "tower"],
    },
)
def functional_in_sequential_in_functional() -> keras.Model:
    x = Input((6,), name="x")
    tower = keras.Sequential(
        [
            Dense(4, activation="tanh", name="stem"),
            encoder(4),
            Dense(7, activation="relu", name="top"),
        ],
        name="tower",
    )
    joined = Concatenate(name="fusion")([Dense(3, name="aside")(x), tower(x)])
    return keras.Model(x, Dense(2, name="head")(joined))
