"""A student that is trained on saved values learns what the values are."""

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import DataError, OptionError
from tests.support.classifier import CLASSES, ROWS, X, classifier

pytestmark = pytest.mark.every_backend
NAMES = ["fusion/in/0", "fusion/in/1"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "values.zarr"
    return layertap.save(classifier(), (X, CLASSES), path, before="fusion")


def student(saved):
    """A linear student with an output for each address of the teacher."""
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    outputs = {name: layers.Dense(saved[name].shape[1])(x) for name in NAMES}
    model = keras.Model(x, outputs)
    model.compile(keras.optimizers.SGD(0.05), loss="mse")
    return model


def by_hand(saved, model, epochs):
    """Plain gradient descent on the mean squares of both branches, batch by batch."""
    weights = [np.array(w, "float64") for w in model.get_weights()]
    for _ in range(epochs):
        for start in range(0, ROWS, 16):
            rows = slice(start, start + 16)
            for place, name in enumerate(NAMES):
                kernel, bias = weights[2 * place : 2 * place + 2]
                apart = X[rows] @ kernel + bias - saved[name][rows]
                step = 0.05 * 2 * apart / apart.size
                weights[2 * place] = kernel - X[rows].T @ step
                weights[2 * place + 1] = bias - step.sum(axis=0)
    return weights


@pytest.mark.parametrize("form", ["dataset", "tf", "grain"])
def test_a_student_learns_the_values(saved, form):
    if form == "tf" and keras.backend.backend() != "tensorflow":
        # It is TensorFlow's way alone; others take the first.
        form = "dataset"
    model = student(saved)
    expected = by_hand(saved, model, epochs=3)
    data = getattr(saved, form)(inputs=X, batch_size=16)
    steps = {"steps_per_epoch": 3} if form == "grain" else {}
    if form == "grain":
        data = data.repeat()
    model.fit(data, epochs=3, shuffle=False, verbose=0, **steps)
    for weight, other in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5)


def test_rows_orders_and_structures_stay_together(saved):
    data = saved.dataset(
        inputs={"a": X, "b": [X[:, 0], X[:, 1]]}, shuffle=True, seed=4, batch_size=7
    )
    for number in range(len(data)):
        x, y = data[number]
        for row, left in zip(x["a"], y["fusion/in/0"], strict=True):
            (place,) = np.flatnonzero((row == X).all(axis=1))
            np.testing.assert_array_equal(left, saved["fusion/in/0"][place])
        assert (x["b"][1] == x["a"][:, 1]).all()


def test_labels_by_name_are_further_targets(saved):
    data = saved.dataset(inputs=X, labels={"answer": CLASSES}, batch_size=ROWS)
    _, y = data[0]
    assert [*y] == [*NAMES, "answer"]
    assert y["answer"].tolist() == CLASSES.tolist()
    _, joined = saved.dataset(inputs=X, joined=True, batch_size=ROWS)[0]
    assert joined.shape == (ROWS, 7)


def test_what_does_not_fit_is_refused(saved):
    with pytest.raises(OptionError, match="can't be combined with `inputs=`"):
        saved.dataset(inputs=X, labels=CLASSES)
    with pytest.raises(OptionError, match="fusion/in/0, which is a value, too"):
        saved.dataset(inputs=X, labels={"fusion/in/0": CLASSES})
    with pytest.raises(DataError, match="`inputs=` does not match the store"):
        saved.dataset(inputs=X[:5])
