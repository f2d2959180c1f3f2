"""Interventions keep what else tensors have: arguments, masks, structures."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap

pytestmark = pytest.mark.every_backend


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def attending():
    x, y = keras.Input((5, 4), name="x"), keras.Input((6, 4), name="y")
    attention = layers.Attention(name="attention")([x, y])
    heads = layers.MultiHeadAttention(2, 2, name="heads")(x, y)
    return keras.Model([x, y], [attention, heads])


def test_queries_keys_and_values_of_attention_are_replaced():
    model = attending()
    random = np.random.default_rng(5)
    x, y, other = (random.normal(size=(3, n, 4)).astype("float32") for n in (5, 6, 6))
    tap = layertap.tap(model, joins="attention")
    heads = model.get_layer("heads")
    for name, query, key, value in (
        ("in/0", 0 * x, y, y),
        ("in/1", x, other, y),
        ("in/2", x, y, other),
    ):
        new = {"in/0": "zero"}.get(name, other)
        joined, _ = tap.predict([x, y], replace={f"attention/{name}": new})
        scores = np.exp(query @ key.swapaxes(1, 2))
        close(joined, scores / scores.sum(-1, keepdims=True) @ value)
        _, joined = tap.predict([x, y], replace={f"heads/{name}": new})
        close(joined, ops.convert_to_numpy(heads(query, value, key)))


class Biased(layers.Attention):
    """Attention that has a fourth input, which it adds."""

    def build(self, shapes):
        super().build(shapes[:3])

    def compute_mask(self, inputs, mask=None):
        return None

    def call(self, inputs, **options):
        return super().call(list(inputs[:3]), **options) + inputs[3]


class Named(layers.MultiHeadAttention):
    """Attention with options of other names."""

    def call(self, query, value, key=None, **options):
        return super().call(query, value, key, **options)


class Subclassed(keras.Model):
    """A model of both."""

    def __init__(self):
        super().__init__()
        self.biased = Biased(name="biased")
        self.named = Named(2, 2, name="named")

    def call(self, x):
        return self.biased([x, 2 * x, 3 * x, x]), self.named(x, x, use_causal_mask=True)


def test_other_arguments_of_attention_stay():
    model, x = Subclassed(), np.random.default_rng(6).normal(size=(2, 3, 4))
    x = x.astype("float32")
    model(x)
    tap = layertap.tap(model, joins="attention", like=x)
    biased, _ = tap.predict(x, replace={"biased/in/0": "zero"})
    close(biased, np.tile(2 * x.mean(1, keepdims=True), (1, 3, 1)) + x)
    _, named = tap.predict(x, replace={"named/in/0": 2 * x})
    expected = model.named(2 * x, x, use_causal_mask=True)
    close(named, ops.convert_to_numpy(expected))


class Masked(keras.Model):
    """A layer with a mask, which the next one heeds."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(10, 4, mask_zero=True, name="embedding")
        self.average = layers.GlobalAveragePooling1D(name="average")

    def call(self, x):
        return {"mean": self.average(self.embedding(x)), "nothing": None}


def test_a_replaced_output_has_the_mask_of_the_first():
    model, x = Masked(), np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    tap = layertap.tap(model, outputs="embedding", like=x)
    (table,) = model.embedding.get_weights()
    returned = tap.predict(x, replace={"embedding/out": lambda x: 2 * x})
    assert returned["nothing"] is None
    expected = [table[[1, 2]].mean(0), table[3]]
    close(returned["mean"], 2 * np.array(expected))


class Sized(keras.Model):
    """A model that names its output by a size of its input."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, name="dense")

    def call(self, x):
        y = self.dense(ops.mean(x, axis=1))
        return {"long": y, "twice": 2 * y} if x.shape[1] > 4 else {"short": y}


def test_outputs_have_the_structure_of_their_own_call():
    model = Sized()
    long, short = np.ones((2, 6, 3), "float32"), np.ones((2, 4, 3), "float32")
    tap = layertap.tap(model, outputs="dense", like=short)
    for x, names in ((short, ["short"]), (long, ["long", "twice"]), (short, ["short"])):
        returned = tap.predict(x, replace={"dense/out": np.ones((2, 3), "float32")})
        assert sorted(returned) == names
        close(returned[names[0]], np.ones((2, 3)))


class ByRows(Sized):
    """A model that names its output by the number of rows, and their dtype."""

    def call(self, x):
        y = self.dense(ops.cast(x, "float32"))
        if x.shape[0] == 1:
            return {"one": y}
        return {"numbers" if "int" in str(x.dtype) else "many": y}


def test_outputs_have_the_structure_of_their_rows_and_dtypes():
    model, x = ByRows(), np.ones((4, 3), "float32")
    tap = layertap.tap(model, outputs="dense", like=x)
    known = keras.backend.backend() != "tensorflow"
    for batch, name in (
        (x, "many"),
        (x.astype("int32"), "numbers"),
        (x[:1], "one" if known else "many"),
        (x, "many"),
    ):
        assert list(tap.predict(batch, replace={"dense/out": "zero"})) == [name]
