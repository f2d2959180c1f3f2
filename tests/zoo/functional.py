"""Functional models: axes, ops as nodes of the graph, inputs and outputs."""

import keras
import numpy as np
from keras import Input, layers, ops
from keras.layers import Concatenate, Conv2D, Dense, Embedding

from tests.zoo.case import Branches, case, ids, numbers, through
from tests.zoo.truth import Array, run

# Axes.


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    joins={"fusion": 2},
    made_by={"fusion": ["left", "right"]},
)
def last_axis_of_three() -> keras.Model:
    x = Input((4, 6), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(3, activation="tanh", name="right")(x)
    joined = Concatenate(axis=-1, name="fusion")([left, right])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 3, 4), numbers(rows, 5, 4)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "left"), run(m, x[1], "right")]},
    made_by={"fusion": ["left", "right"]},
)
def axis_1_of_three() -> keras.Model:
    x, y = Input((3, 4), name="x"), Input((5, 4), name="y")
    left = Dense(6, activation="relu", name="left")(x)
    right = Dense(6, activation="tanh", name="right")(y)
    joined = Concatenate(axis=1, name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 6, 5, 2), numbers(rows, 6, 8, 2)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "left"), run(m, x[1], "right")]},
    joins={"fusion": 2},
    made_by={"fusion": ["left", "right"]},
)
def axis_2_of_four() -> keras.Model:
    x, y = Input((6, 5, 2), name="x"), Input((6, 8, 2), name="y")
    left = Conv2D(3, 3, activation="relu", name="left")(x)
    right = Conv2D(3, 3, name="right")(y)
    joined = Concatenate(axis=2, name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 4, 5, 2), numbers(rows, 7, 5, 2)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "left"), run(m, x[1], "right")]},
    made_by={"fusion": ["left", "right"]},
)
def axis_minus_3_of_four() -> keras.Model:
    x, y = Input((4, 5, 2), name="x"), Input((7, 5, 2), name="y")
    left = Conv2D(3, 3, activation="relu", name="left")(x)
    right = Conv2D(3, 3, name="right")(y)
    joined = Concatenate(axis=-3, name="fusion")([left, right])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: numbers(rows, 7, 6, 3),
    truth=lambda m, x: {
        "fusion": [run(m, x, name) for name in ("narrow", "medium", "wide")]
    },
    joins={"fusion": 3},
    made_by={"fusion": ["narrow", "medium", "wide"]},
)
def last_axis_of_four() -> keras.Model:
    x = Input((7, 6, 3), name="x")
    narrow = Conv2D(2, 1, activation="relu", name="narrow")(x)
    medium = Conv2D(4, 3, padding="same", activation="relu", name="medium")(x)
    wide = Conv2D(3, 5, padding="same", activation="relu", name="wide")(x)
    joined = Concatenate(name="fusion")([narrow, medium, wide])
    return keras.Model(x, Dense(2, name="head")(joined))


# keras.ops.concatenate as a node of a functional graph.


@case(
    truth=lambda m, x: {"concatenate": [run(m, x, "left"), run(m, x, "right")]},
    joins={"concatenate": 1},
    made_by={"concatenate": ["left", "right"]},
    finish=through("head", join="concatenate"),
)
def op_in_graph() -> keras.Model:
    x = Input((6,), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(3, name="right")(x)
    return keras.Model(x, Dense(2, name="head")(ops.concatenate([left, right], -1)))


def _two_ops_in_graph_truth(m: keras.Model, x: list[Array]) -> Branches:
    left, right = run(m, x[0], "left"), run(m, x[0], "right")
    first = np.concatenate([left, right], axis=1)
    return {
        "concatenate": [left, right],
        "concatenate_1": [run(m, x[1], "third"), first],
    }


@case(
    inputs=lambda rows: [numbers(rows, 4, 6), numbers(rows, 8, 6)],
    truth=_two_ops_in_graph_truth,
    joins={"concatenate": 1, "concatenate_1": 2},
    made_by={
        "concatenate": ["left", "right"],
        "concatenate_1": ["third", "concatenate"],
    },
    finish=through("head", join="concatenate_1"),
)
def two_ops_in_graph() -> keras.Model:
    x, y = Input((4, 6), name="x"), Input((8, 6), name="y")
    left = Dense(5, activation="relu", name="left")(x)
    right = Dense(5, name="right")(x)
    first = ops.concatenate([left, right], axis=1)
    second = ops.concatenate([Dense(3, name="third")(y), first], axis=-1)
    return keras.Model([x, y], Dense(2, name="head")(second))


# Inputs and outputs.


@case(
    truth=lambda m, x: {"fusion": [x, run(m, x, "dense")]},
    made_by={"fusion": ["x", "dense"]},
)
def branch_from_input() -> keras.Model:
    x = Input((6,), name="x")
    joined = Concatenate(name="fusion")([x, Dense(4, name="dense")(x)])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: {
        "right": numbers(rows, 7),
        "left": numbers(rows, 5),
        "ahead": numbers(rows, 2),
    },
    truth=lambda m, x: {
        "fusion": [run(m, x["left"], "small"), run(m, x["right"], "big"), x["ahead"]]
    },
    made_by={"fusion": ["small", "big", "ahead"]},
)
def dict_inputs() -> keras.Model:
    x = {
        "right": Input((7,), name="right"),
        "left": Input((5,), name="left"),
        "ahead": Input((2,), name="ahead"),
    }
    small = Dense(3, activation="relu", name="small")(x["left"])
    big = Dense(8, name="big")(x["right"])
    joined = Concatenate(name="fusion")([small, big, x["ahead"]])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [numbers(rows, 7), numbers(rows, 5)],
    truth=lambda m, x: {"fusion": [run(m, x[1], "small"), run(m, x[0], "big")]},
    made_by={"fusion": ["small", "big"]},
)
def list_inputs() -> keras.Model:
    x, y = Input((7,), name="x"), Input((5,), name="y")
    small = Dense(3, activation="relu", name="small")(y)
    joined = Concatenate(name="fusion")([small, Dense(8, name="big")(x)])
    return keras.Model([x, y], Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: [ids(rows, 3, below=9), ids(rows, 4, below=9)],
    truth=lambda m, x: {"fusion": [x[0], x[1]]},
    made_by={"fusion": ["first", "second"]},
    finish=through("table", "flat", "head"),
)
def integer_branches() -> keras.Model:
    first = Input((3,), name="first", dtype="int32")
    second = Input((4,), name="second", dtype="int32")
    joined = Concatenate(name="fusion", dtype="int32")([first, second])
    flat = layers.Flatten(name="flat")(Embedding(9, 5, name="table")(joined))
    return keras.Model([first, second], Dense(2, name="head")(flat))


@case(
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    made_by={"fusion": ["left", "right"]},
    finish=lambda m, x, joined: joined["fusion"],
)
def join_is_the_output() -> keras.Model:
    x = Input((6,), name="x")
    branches = [Dense(5, name="left")(x), Dense(3, name="right")(x)]
    return keras.Model(x, Concatenate(name="fusion")(branches))


@case(
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    made_by={"fusion": ["left", "right"]},
    finish=lambda m, x, joined: {
        "price": run(m, joined["fusion"], "price"),
        "kind": run(m, joined["fusion"], "kind"),
        "aside": run(m, x, "left", "aside"),
    },
)
def several_outputs() -> keras.Model:
    x = Input((6,), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    joined = Concatenate(name="fusion")([left, Dense(3, name="right")(x)])
    outputs = {
        "price": Dense(1, name="price")(joined),
        "kind": Dense(4, activation="softmax", name="kind")(joined),
        "aside": Dense(2, name="aside")(left),
    }
    return keras.Model(x, outputs)
