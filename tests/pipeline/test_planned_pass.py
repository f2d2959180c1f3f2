"""The last, smaller batch of data has its own values, also where rows are mixed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap

pytestmark = pytest.mark.every_backend

X = np.random.default_rng(2).normal(size=(19, 5)).astype("float32")


class OfRows(layers.Layer):
    """A function of all rows of a batch."""

    def __init__(self, function):
        super().__init__(name="of_rows")
        self.function = function

    def call(self, x):
        return self.function(x)


def network(function):
    x = keras.Input((5,), name="x")
    y = OfRows(function)(layers.Dense(4, name="dense")(x))
    joined = layers.Concatenate(name="fusion")([y, x])
    return keras.Model(x, layers.Dense(1, name="head")(joined))


def dense(model, x):
    w, c = model.get_layer("dense").get_weights()
    return x @ w + c


def batches(function, model):
    """Returns a function of NumPy of each batch of eight rows."""
    parts = [X[start : start + 8] for start in range(0, len(X), 8)]
    return np.concatenate([function(dense(model, part)) for part in parts])


def positions(y):
    return y + np.arange(len(y), dtype="float32")[:, None]


CASES = {
    "each row alone": (ops.tanh, np.tanh),
    "sums of earlier rows": (
        lambda x: ops.cumsum(x, axis=0),
        lambda y: np.cumsum(y, axis=0),
    ),
    "mean of the rows": (
        lambda x: x - ops.mean(x, axis=0, keepdims=True),
        lambda y: y - y.mean(axis=0),
    ),
    "sum of the rows": (
        lambda x: x + ops.sum(x, axis=0, keepdims=True),
        lambda y: y + y.sum(axis=0),
    ),
    "number of rows": (
        lambda x: x * ops.cast(ops.shape(x)[0], "float32"),
        lambda y: y * len(y),
    ),
    "ones of the data": (
        lambda x: x / ops.sum(ops.ones_like(x[:, :1]), axis=0),
        lambda y: y / len(y),
    ),
    "backwards": (lambda x: ops.flip(x, axis=0), lambda y: y[::-1]),
    "positions": (
        lambda x: x + ops.cast(ops.arange(ops.shape(x)[0]), "float32")[:, None],
        positions,
    ),
}


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="Only JAX compiles for each shape"
)
@pytest.mark.parametrize(
    ("name", "compiled"), [("each row alone", 0), ("mean of the rows", 1)]
)
def test_the_last_batch_is_compiled_only_where_rows_mix(name, compiled, caplog):
    import jax

    function, _ = CASES[name]
    model = network(function)
    layertap.capture(model, X[:16], batch_size=8)
    with jax.log_compiles():
        layertap.capture(model, X, batch_size=8)
    lines = [line for line in caplog.messages if "Finished XLA compilation" in line]
    assert sum("jit(<lambda>)" in line for line in lines) == compiled, lines


@pytest.mark.parametrize("name", CASES)
def test_the_last_batch_has_its_own_values(name, tmp_path):
    function, by_hand = CASES[name]
    model = network(function)
    values = layertap.capture(model, X, batch_size=8)
    expected = batches(by_hand, model)
    np.testing.assert_allclose(values["fusion/in/0"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(values["fusion/in/1"], X)
    saved = layertap.save(model, X, tmp_path / "v.zarr", batch_size=8, progress=False)
    np.testing.assert_array_equal(saved["fusion/in/0"][:], values["fusion/in/0"])
    report = layertap.verify(saved, model, X, rows=None)
    assert report
    assert "identical" in str(report)
