"""Mixed precision.

The edges of these graphs don't show what the join receives: it casts its inputs to its
own dtype first.
"""

import keras
from keras import Input
from keras.layers import Concatenate, Dense

from tests.zoo.case import Branches, case
from tests.zoo.truth import Array, find, run


def _mixed(policy: str, join: str) -> keras.Model:
    half = keras.DTypePolicy(policy)
    x = Input((6,), name="x", dtype="float32")
    left = Dense(5, activation="relu", name="left", dtype=half)(x)
    right = Dense(3, name="right", dtype=half)(x)
    joined = Concatenate(name="fusion", dtype=join)([left, right, x])
    return keras.Model(x, Dense(2, name="head", dtype="float32")(joined))


def _mixed_truth(m: keras.Model, x: Array) -> Branches:
    received = find(m, "fusion").compute_dtype
    branches = [run(m, x, "left"), run(m, x, "right"), x]
    return {"fusion": [branch.astype(received) for branch in branches]}


@case(
    truth=_mixed_truth,
    made_by={"fusion": ["left", "right", None]},
    precision="float16",
)
def mixed_float16() -> keras.Model:
    return _mixed("mixed_float16", join="mixed_float16")


@case(
    truth=_mixed_truth,
    made_by={"fusion": ["left", "right", None]},
    precision="bfloat16",
)
def mixed_bfloat16() -> keras.Model:
    return _mixed("mixed_bfloat16", join="mixed_bfloat16")


@case(
    truth=_mixed_truth,
    made_by={"fusion": [None, None, "x"]},
    precision="float16",
)
def float32_join_of_float16_branches() -> keras.Model:
    return _mixed("mixed_float16", join="float32")
