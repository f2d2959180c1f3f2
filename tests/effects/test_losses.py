"""Gradients of compiled losses in all forms that Keras accepts, row by row.

They are compared with finite differences of what Keras itself computes for one row.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import OptionError

pytestmark = pytest.mark.every_backend

ROWS = 6
RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(ROWS, 5, 3)).astype("float32")
WORDS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [1, 1, 1, 1, 2]] * 2)


def sequences(outputs):
    """A model of sequences of five numbers, and its two branches."""
    keras.utils.set_random_seed(3)
    x = keras.Input((5, 3), name="x")
    parts = [layers.Dense(n, activation="tanh", name=f"d{n}")(x) for n in (2, 3)]
    return keras.Model(x, outputs(layers.Concatenate(name="fusion")(parts)))


def one(joined):
    return layers.Dense(1, activation="sigmoid", name="one")(joined)


def last(joined):
    return layers.Dense(1, activation="sigmoid", name="last")(joined[:, -1])


def named(joined):
    return {name: layers.Dense(1, name=name)(joined) for name in "zk"}


def nested(joined):
    two = named(joined)
    return {"u": [two["z"], two["k"]]}


def of_words(joined=None):
    keras.utils.set_random_seed(3)
    x = keras.Input((5,), dtype="int32", name="x")
    parts = [layers.Embedding(6, n, mask_zero=True)(x) for n in (4, 3)]
    joined = layers.Concatenate(name="fusion")(parts)
    return keras.Model(x, layers.Dense(3, activation="softmax")(joined))


def squares(y, predicted):
    return ops.mean(ops.square(y - predicted), axis=-1)


BITS = RANDOM.integers(0, 2, (ROWS, 5))
NUMBERS = [RANDOM.normal(size=(ROWS, 5, 1)).astype("float32") for _ in range(2)]
WEIGHTS = np.linspace(0.5, 2, ROWS).astype("float32")
# A model, what it is compiled with, and its labels.
CASES = {
    "labels of a lower rank": (last, {"loss": "binary_crossentropy"}, BITS[:, 0]),
    "of a lower rank, in time": (one, {"loss": "binary_crossentropy"}, BITS),
    "a function, integers": (one, {"loss": squares}, BITS),
    "a list of one": (last, {"loss": ["mse"], "loss_weights": [3.0]}, NUMBERS[0][:, 0]),
    "a list for named outputs": (
        named,
        {"loss": ["mse", None]},
        dict(zip("zk", NUMBERS, strict=True)),
    ),
    "nested outputs": (nested, {"loss": {"u": ["mse", "mae"]}}, {"u": NUMBERS}),
    "a loss with a condition": (one, {"loss": "hinge"}, BITS[..., None]),
    "a sum": (
        one,
        {"loss": keras.losses.MeanSquaredError(reduction="sum")},
        NUMBERS[0],
    ),
    "masked": (None, {"loss": "sparse_categorical_crossentropy"}, WORDS % 3),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_they_are_those_of_keras_for_one_row(case, weighted):
    if case == "masked" and weighted and keras.backend.backend() == "torch":
        pytest.skip("Keras multiplies weights by masks in place on PyTorch, and fails")
    outputs, options, y = CASES[case]
    model = of_words() if outputs is None else sequences(outputs)
    x = WORDS if outputs is None else X
    model.compile(**options)
    data = (x, y, WEIGHTS) if weighted else (x, y)
    values = layertap.capture(model, data, gradients="loss")
    tap = layertap.tap(model)
    assert values.gradients.keys() == {"fusion/in/0", "fusion/in/1"}

    def by_keras(replaced, row):
        predicted = tap.predict(x, replace=replaced)
        part = keras.tree.map_structure(lambda a: a[row : row + 1], (predicted, y))
        predicted, labels = keras.tree.map_structure(ops.convert_to_tensor, part)
        if outputs is None:
            predicted._keras_mask = ops.convert_to_tensor(x[row : row + 1] != 0)
        weight = WEIGHTS[row : row + 1] if weighted else None
        loss = model.compute_loss(
            y=labels, y_pred=predicted, sample_weight=weight, training=False
        )
        return float(ops.convert_to_numpy(loss))

    for name, gradient in values.gradients.items():
        step = (1e-2 * RANDOM.normal(size=gradient.shape)).astype("float32")
        for row in (0, 4):
            more, less = (
                by_keras({name: values[name] + sign * step}, row) for sign in (1, -1)
            )
            terms = 2 * gradient[row] * step[row]
            assert abs(more - less - terms.sum()) <= 0.02 * np.abs(terms).sum() + 2e-6


def test_a_loss_that_is_not_reduced_is_refused():
    model = sequences(one)
    model.compile(loss=keras.losses.MeanSquaredError(reduction="none"))
    with pytest.raises(OptionError, match="Expected losses that reduce it"):
        layertap.capture(model, (X, NUMBERS[0]), gradients="loss")


def test_the_state_of_a_recurrent_layer_is_that_before_the_pass():
    keras.utils.set_random_seed(5)
    x = keras.Input((5, 3), batch_size=ROWS, name="x")
    joined = layers.Concatenate(name="fusion")([layers.Dense(2, name="d")(x), x])
    lstm = layers.LSTM(4, stateful=True, name="lstm")
    model = keras.Model(x, layers.Dense(2, name="head")(lstm(joined)))
    values = layertap.capture(model, X, gradients=0, attributions=0)
    assert values.gaps["fusion"].max() < 1e-5
    tap = layertap.tap(model)
    step = (1e-2 * RANDOM.normal(size=(ROWS, 5, 2))).astype("float32")
    value, gradient = values["fusion/in/0"], values.gradients["fusion/in/0"]
    more, less = (
        tap.predict(X, replace={"fusion/in/0": value + sign * step})[:, 0]
        for sign in (1, -1)
    )
    terms = (2 * gradient * step).reshape(ROWS, -1)
    np.testing.assert_allclose(more - less, terms.sum(axis=1), atol=2e-4)
