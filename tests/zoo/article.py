"""The article's three examples, as written there, with its models of the branches."""

import keras
from keras import Input, layers
from keras.layers import Conv2D, Dense

from tests.zoo.case import case, numbers, through
from tests.zoo.truth import run


@case(
    inputs=lambda rows: numbers(rows, 10),
    truth=lambda m, x: {"concatenate": [run(m, x, "dense"), run(m, x, "dense_1")]},
    joins={"concatenate": 1},
    made_by={"concatenate": ["dense", "dense_1"]},
    finish=through("dense_2", join="concatenate"),
)
def article_two_dense() -> keras.Model:
    input_tensor = Input(shape=(10,))
    branch1 = Dense(64, activation="relu")(input_tensor)
    branch2 = Dense(32, activation="relu")(input_tensor)
    keras.Model(inputs=input_tensor, outputs=branch1)
    keras.Model(inputs=input_tensor, outputs=branch2)
    merged = layers.concatenate([branch1, branch2])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)


@case(
    inputs=lambda rows: numbers(rows, 28, 28, 1),
    truth=lambda m, x: {
        "concatenate": [
            run(m, x, "conv2d", "max_pooling2d", "flatten"),
            run(m, x, "conv2d_1", "max_pooling2d_1", "flatten_1"),
        ]
    },
    joins={"concatenate": 1},
    made_by={"concatenate": ["flatten", "flatten_1"]},
    finish=through("dense", join="concatenate"),
)
def article_convolutions() -> keras.Model:
    input_tensor = Input(shape=(28, 28, 1))
    branch1 = Conv2D(32, (3, 3), activation="relu")(input_tensor)
    branch1 = layers.MaxPooling2D((2, 2))(branch1)
    branch1 = layers.Flatten()(branch1)
    branch2 = Conv2D(16, (3, 3), activation="relu")(input_tensor)
    branch2 = layers.MaxPooling2D((2, 2))(branch2)
    branch2 = layers.Flatten()(branch2)
    keras.Model(inputs=input_tensor, outputs=branch1)
    keras.Model(inputs=input_tensor, outputs=branch2)
    merged = layers.concatenate([branch1, branch2])
    output = Dense(10, activation="softmax")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)


@case(
    inputs=lambda rows: numbers(rows, 10),
    truth=lambda m, x: {
        "concatenate": [run(m, x, name) for name in ("dense", "dense_1", "dense_2")]
    },
    joins={"concatenate": 1},
    made_by={"concatenate": ["dense", "dense_1", "dense_2"]},
    finish=through("dense_3", join="concatenate"),
)
def article_three_dense() -> keras.Model:
    input_tensor = Input(shape=(10,))
    branch1 = Dense(64, activation="relu")(input_tensor)
    branch2 = Dense(32, activation="relu")(input_tensor)
    branch3 = Dense(16, activation="relu")(input_tensor)
    keras.Model(inputs=input_tensor, outputs=branch1)
    keras.Model(inputs=input_tensor, outputs=branch2)
    keras.Model(inputs=input_tensor, outputs=branch3)
    merged = layers.concatenate([branch1, branch2, branch3])
    output = Dense(1, activation="sigmoid")(merged)
    return keras.Model(inputs=input_tensor, outputs=output)
