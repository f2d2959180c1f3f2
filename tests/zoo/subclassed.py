"""Subclassed models, and layers that join inside their own call."""

from typing import Any

import keras
import numpy as np
from keras import Input, ops
from keras.layers import Concatenate, Dense

from tests.zoo.case import Branches, called, case, numbers, through
from tests.zoo.nested import encoded, encoder
from tests.zoo.truth import Array, find, run, weights_of


@keras.saving.register_keras_serializable("zoo")
class JoinsByLayer(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = Dense(5, activation="relu", name="left")
        self.right = Dense(3, name="right")
        self.fusion = Concatenate(name="fusion")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.fusion([self.left(x), self.right(x)]))


def _joins_by_layer_truth(m: keras.Model, x: Array) -> Branches:
    return {"fusion": [run(m, x, "left"), run(m, x, "right")]}


@case(
    truth=_joins_by_layer_truth,
    made_by={"fusion": ["left", "right"]},
)
def subclassed_by_layer() -> keras.Model:
    return called(JoinsByLayer(), numbers(2, 6))


@case(
    truth=_joins_by_layer_truth,
    made_by={"fusion": ["left", "right"]},
)
def subclassed_never_called() -> keras.Model:
    """Has its weights, but was never called: the shape of its inputs is unknown."""
    model = JoinsByLayer()
    model.left.build((None, 6))
    model.right.build((None, 6))
    model.head.build((None, 8))
    return model


@keras.saving.register_keras_serializable("zoo")
class JoinsByOps(keras.Model):
    """Joins twice in one call, by ops."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = Dense(5, activation="relu", name="left")
        self.right = Dense(3, name="right")
        self.third = Dense(4, name="third")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        first = ops.concatenate([self.left(x), self.right(x)], axis=-1)
        return self.head(ops.concatenate([self.third(x), first], axis=1))


def _joins_by_ops_truth(m: keras.Model, x: Array, inside: str = "") -> Branches:
    first = [run(m, x, f"{inside}left"), run(m, x, f"{inside}right")]
    return {
        f"{inside}concatenate": first,
        f"{inside}concatenate@2": [
            run(m, x, f"{inside}third"),
            np.concatenate(first, axis=1),
        ],
    }


@case(
    truth=_joins_by_ops_truth,
    joins={"concatenate": 1, "concatenate@2": 1},
    made_by={"concatenate": ["left", "right"], "concatenate@2": ["third", None]},
    finish=through("head", join="concatenate@2"),
)
def subclassed_by_two_ops() -> keras.Model:
    return called(JoinsByOps(), numbers(2, 6))


@case(
    truth=lambda m, x: _joins_by_ops_truth(m, x, "block/"),
    joins={"block/concatenate": 1, "block/concatenate@2": 1},
    made_by={
        "block/concatenate": ["block/left", "block/right"],
        "block/concatenate@2": ["block/third", None],
    },
    finish=through("block/head", "top", join="block/concatenate@2"),
)
def subclassed_in_functional() -> keras.Model:
    x = Input((6,), name="x")
    return keras.Model(x, Dense(3, name="top")(JoinsByOps(name="block")(x)))


@keras.saving.register_keras_serializable("zoo")
class JoinsTwiceByOneLayer(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.shared = Dense(4, activation="tanh", name="shared")
        self.squeeze = Dense(6, name="squeeze")
        self.fusion = Concatenate(name="fusion")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        squeezed = self.squeeze(self.fusion([self.shared(x), x]))
        return self.head(self.fusion([squeezed, self.shared(squeezed)]))


def _joins_twice_truth(m: keras.Model, x: Array) -> Branches:
    first = [run(m, x, "shared"), x]
    squeezed = run(m, np.concatenate(first, axis=1), "squeeze")
    return {"fusion": first, "fusion@2": [squeezed, run(m, squeezed, "shared")]}


@case(
    truth=_joins_twice_truth,
    joins={"fusion": 1, "fusion@2": 1},
    made_by={"fusion": ["shared", None], "fusion@2": ["squeeze", "shared@2"]},
    finish=through("head", join="fusion@2"),
)
def subclassed_joins_twice_by_one_layer() -> keras.Model:
    return called(JoinsTwiceByOneLayer(), numbers(2, 6))


@keras.saving.register_keras_serializable("zoo")
class TakesDict(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.small = Dense(3, activation="relu", name="small")
        self.big = Dense(8, name="big")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        branches = [self.small(x["left"]), self.big(x["right"])]
        return {"score": self.head(ops.concatenate(branches, axis=-1))}


@case(
    inputs=lambda rows: {"right": numbers(rows, 7), "left": numbers(rows, 5)},
    truth=lambda m, x: {
        "concatenate": [run(m, x["left"], "small"), run(m, x["right"], "big")]
    },
    joins={"concatenate": 1},
    made_by={"concatenate": ["small", "big"]},
    finish=lambda m, x, joined: {"score": run(m, joined["concatenate"], "head")},
)
def subclassed_with_dict_inputs() -> keras.Model:
    return called(TakesDict(), {"right": numbers(2, 7), "left": numbers(2, 5)})


@keras.saving.register_keras_serializable("zoo")
class HoldsFunctional(keras.Model):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder = encoder(6)
        self.aside = Dense(4, name="aside")
        self.fusion = Concatenate(name="fusion")
        self.head = Dense(2, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.fusion([self.aside(x), self.encoder(x)]))


@case(
    truth=lambda m, x: {
        "encoder/mixed": encoded(m, x),
        "fusion": [run(m, x, "aside"), np.concatenate(encoded(m, x), axis=1)],
    },
    joins={"encoder/mixed": 1, "fusion": 1},
    made_by={
        "encoder/mixed": ["encoder/small", "encoder/big"],
        "fusion": ["aside", "encoder"],
    },
)
def subclassed_holds_functional() -> keras.Model:
    return called(HoldsFunctional(), numbers(2, 6))


# Layers that join inside.


@keras.saving.register_keras_serializable("zoo")
class Pair(keras.layers.Layer):
    """Concatenates inside its own call."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = Dense(5, activation="relu", name="left")
        self.right = Dense(3, activation="tanh", name="right")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.left.build(input_shape)
        self.right.build(input_shape)

    def call(self, x: Any) -> Any:
        return ops.concatenate([self.left(x), self.right(x)], axis=-1)


def _paired(m: keras.Model, x: Array) -> list[Array]:
    return [run(m, x, "pair/left"), run(m, x, "pair/right")]


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {"pair/concatenate": _paired(m, x)},
    joins={"pair/concatenate": 2},
    made_by={"pair/concatenate": ["pair/left", "pair/right"]},
    finish=through("head", join="pair/concatenate"),
)
def custom_layer() -> keras.Model:
    x = Input((4, 6), name="x")
    return keras.Model(x, Dense(2, name="head")(Pair(name="pair")(x)))


def _custom_layer_twice_truth(m: keras.Model, x: Array) -> Branches:
    first = _paired(m, x)
    middle = run(m, np.concatenate(first, axis=1), "middle")
    return {"pair/concatenate": first, "pair@2/concatenate": _paired(m, middle)}


@case(
    truth=_custom_layer_twice_truth,
    joins={"pair/concatenate": 1, "pair@2/concatenate": 1},
    made_by={
        "pair/concatenate": ["pair/left", "pair/right"],
        "pair@2/concatenate": ["pair@2/left", "pair@2/right"],
    },
    finish=through("head", join="pair@2/concatenate"),
)
def custom_layer_twice() -> keras.Model:
    x = Input((6,), name="x")
    pair = Pair(name="pair")
    middle = Dense(6, activation="tanh", name="middle")(pair(x))
    return keras.Model(x, Dense(2, name="head")(pair(middle)))


@keras.saving.register_keras_serializable("zoo")
class ClassToken(keras.layers.Layer):
    """Puts a learned token before the patches of an image, as a ViT does."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.token = self.add_weight(shape=(1, 1, input_shape[-1]), name="token")

    def call(self, patches: Any) -> Any:
        shape = (ops.shape(patches)[0], 1, patches.shape[-1])
        return ops.concatenate([ops.broadcast_to(self.token, shape), patches], axis=1)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        rows, patches, channels = input_shape
        return rows, patches + 1, channels


@case(
    inputs=lambda rows: numbers(rows, 4, 6),
    truth=lambda m, x: {
        "token/concatenate": [
            np.repeat(
                weights_of(find(m, "token"))[0].astype("float32"), len(x), axis=0
            ),
            run(m, x, "patches"),
        ]
    },
    joins={"token/concatenate": 1},
    made_by={"token/concatenate": [None, "patches"]},
    finish=through("head", join="token/concatenate"),
)
def class_token() -> keras.Model:
    x = Input((4, 6), name="x")
    patches = Dense(5, activation="tanh", name="patches")(x)
    return keras.Model(x, Dense(2, name="head")(ClassToken(name="token")(patches)))
