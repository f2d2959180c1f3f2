"""Words, times and masks, and layers that act otherwise in training."""

import keras
import numpy as np
from keras import Input, layers
from keras.layers import Concatenate, Conv2D, Dense, Embedding

from tests.zoo.case import case, ids, numbers, through
from tests.zoo.truth import Array, run

# Layers that act otherwise in training.


@case(
    truth=lambda m, x: {"fusion": [run(m, x, "left", "norm"), run(m, x, "right")]},
    made_by={"fusion": ["norm", "dropout"]},
)
def dropout_and_batch_normalization() -> keras.Model:
    x = Input((6,), name="x")
    left = Dense(5, activation="relu", name="left")(x)
    left = layers.BatchNormalization(name="norm")(left)
    right = Dense(3, activation="relu", name="right")(x)
    right = layers.Dropout(0.5, seed=1, name="dropout")(right)
    joined = Concatenate(name="fusion")([left, right])
    return keras.Model(x, Dense(2, name="head")(joined))


# Words, times and masks.


@case(
    inputs=lambda rows: ids(rows, 5, below=11),
    truth=lambda m, x: {"fusion": [run(m, x, "words"), run(m, x, "shapes")]},
    joins={"fusion": 2},
    made_by={"fusion": ["words", "shapes"]},
    finish=through("pool", "head"),
)
def embeddings() -> keras.Model:
    x = Input((5,), name="x", dtype="int32")
    words = Embedding(11, 4, name="words")(x)
    shapes = Embedding(11, 3, name="shapes")(x)
    joined = Concatenate(name="fusion")([words, shapes])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model(x, Dense(2, name="head")(pooled))


def _mean_where(kept: Array, x: Array) -> Array:
    kept = kept[:, :, None]
    mean = (x * kept).sum(axis=1) / kept.sum(axis=1)
    return mean.astype("float32")


# Before, Keras asked a mask for the number of rows as soon as the model was made.
@case(
    since=(3, 12),
    inputs=lambda rows: [ids(rows, 6, below=4), ids(rows, 6, below=3)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "words"), run(m, x[1], "tags")]},
    joins={"fusion": 2},
    made_by={"fusion": ["words", "tags"]},
    finish=lambda m, x, joined: run(
        m, _mean_where((x[0] != 0) | (x[1] != 0), joined["fusion"]), "head"
    ),
)
def masks_side_by_side() -> keras.Model:
    x = Input((6,), name="x", dtype="int32")
    y = Input((6,), name="y", dtype="int32")
    words = Embedding(4, 5, mask_zero=True, name="words")(x)
    tags = Embedding(3, 2, mask_zero=True, name="tags")(y)
    joined = Concatenate(name="fusion")([words, tags])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model([x, y], Dense(2, name="head")(pooled))


@case(
    since=(3, 12),
    inputs=lambda rows: [ids(rows, 6, below=4), numbers(rows, 3, 5)],
    truth=lambda m, x: {"fusion": [run(m, x[0], "words"), x[1]]},
    made_by={"fusion": ["words", "y"]},
    finish=lambda m, x, joined: run(
        m,
        _mean_where(
            np.concatenate([x[0] != 0, np.ones((len(x[1]), 3), bool)], axis=1),
            joined["fusion"],
        ),
        "head",
    ),
)
def masks_end_to_end() -> keras.Model:
    x, y = Input((6,), name="x", dtype="int32"), Input((3, 5), name="y")
    words = Embedding(4, 5, mask_zero=True, name="words")(x)
    joined = Concatenate(axis=1, name="fusion")([words, y])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model([x, y], Dense(2, name="head")(pooled))


@case(
    inputs=lambda rows: numbers(rows, 5, 8),
    truth=lambda m, x: {"fusion": [run(m, x, "left"), run(m, x, "right")]},
    joins={"fusion": 2},
    made_by={"fusion": ["left", "right"]},
)
def variable_length() -> keras.Model:
    x = Input((None, 8), name="x")
    left = Dense(6, activation="relu", name="left")(x)
    right = Dense(3, name="right")(x)
    joined = Concatenate(axis=-1, name="fusion")([left, right])
    return keras.Model(x, Dense(2, name="head")(joined))


@case(
    inputs=lambda rows: {
        "text": ids(rows, 7, below=12),
        "image": numbers(rows, 6, 5, 2),
        "sensor": numbers(rows, 4, 3),
    },
    truth=lambda m, x: {
        "fusion": [
            run(m, [run(m, x["text"], "words")] * 2, "attention", "strongest"),
            run(m, x["image"], "edges", "mean"),
            run(m, x["sensor"], "reading", "norm"),
        ]
    },
    made_by={"fusion": ["strongest", "mean", "norm"]},
)
def text_image_and_sensor() -> keras.Model:
    x = {
        "text": Input((7,), name="text", dtype="int32"),
        "image": Input((6, 5, 2), name="image"),
        "sensor": Input((4, 3), name="sensor"),
    }
    words = Embedding(12, 4, name="words")(x["text"])
    text = layers.Attention(name="attention")([words, words])
    text = layers.GlobalMaxPooling1D(name="strongest")(text)
    image = Conv2D(5, 3, activation="relu", name="edges")(x["image"])
    image = layers.GlobalAveragePooling2D(name="mean")(image)
    sensor = layers.LSTM(3, name="reading")(x["sensor"])
    sensor = layers.BatchNormalization(name="norm")(sensor)
    joined = Concatenate(name="fusion")([text, image, sensor])
    return keras.Model(x, Dense(2, name="head")(joined))
