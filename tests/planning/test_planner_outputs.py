"""Outputs of any operation are captured, without work beyond them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import DataError
from layertap.inputs.feed import Feed
from layertap.pipeline.planned_pass import planned_pass
from layertap.tracing.model_structure import input_specs

pytestmark = pytest.mark.every_backend

X = np.random.default_rng(3).normal(size=(5, 4)).astype("float32")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def dense(layer, x):
    return x @ ops.convert_to_numpy(layer.kernel) + ops.convert_to_numpy(layer.bias)


def captured(model, outputs, x=X):
    return layertap.capture(model, x, outputs=outputs, batch_size=2)


class Block(layers.Layer):
    """A custom layer with a layer inside, called twice."""

    def __init__(self, name):
        super().__init__(name=name)
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(self.inner(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first = layers.Dense(4, name="first")
        self.block = Block(name="block")

    def call(self, x):
        return self.block(self.first(x))


def test_layers_of_subclassed_models_and_inside_custom_layers():
    model = Subclassed()
    values = captured(model, ["first", "block/*", "block"])
    assert list(values) == [
        "first/out",
        "block/inner/out",
        "block/inner@2/out",
        "block/out",
    ]
    first = dense(model.first, X)
    once = dense(model.block.inner, first)
    close(values["first/out"], first)
    close(values["block/inner/out"], once)
    close(values["block/inner@2/out"], dense(model.block.inner, once))
    assert values.plan.outputs[3].alias_of == "block/inner@2/out"


def test_layers_inside_nested_models_each_call_of_them():
    inputs = keras.Input([4])
    tower = layers.Dense(3, name="tower")
    inner = keras.Model(inputs, tower(inputs), name="inner")
    first, second = keras.Input([4], name="first"), keras.Input([4], name="second")
    model = keras.Model([first, second], [inner(first), inner(second)])
    values = captured(model, "*tower", [X, 2 * X])
    # Numbered in the order of the code, although Keras runs the second one first.
    assert set(values) == {"inner/tower/out", "inner@2/tower/out"}
    close(values["inner/tower/out"], dense(tower, X))
    close(values["inner@2/tower/out"], dense(tower, 2 * X))


def test_each_output_of_a_layer_that_has_several():
    inputs = keras.Input([6, 4])
    layer = layers.LSTM(3, return_state=True, return_sequences=True, name="lstm")
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype("float32")
    values = captured(model, "lstm", x)
    assert list(values) == ["lstm/out/0", "lstm/out/1", "lstm/out/2"]
    for index, expected in enumerate(model.predict(x, verbose=0)):
        close(values[f"lstm/out/{index}"], expected)


def test_a_layer_over_time():
    inputs = keras.Input([3, 4])
    inner = layers.Dense(2, name="inner")
    model = keras.Model(inputs, layers.TimeDistributed(inner, name="over_time")(inputs))
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    values = captured(model, "over_time", x)
    close(values["over_time/out"], dense(inner, x))


def test_outputs_and_branches_together_are_stored_once(tmp_path):
    inputs = keras.Input([4])
    towers = [layers.Dense(3, name=name)(inputs) for name in ("left", "right")]
    model = keras.Model(inputs, layers.Concatenate(name="fusion")(towers))
    saved = layertap.save(
        model,
        X,
        tmp_path / "values.zarr",
        before="*",
        outputs=["left", "fusion"],
        progress=False,
    )
    assert [value.address for value in saved.plan.stored] == [
        "fusion/in/0",
        "fusion/in/1",
    ]
    both = np.concatenate([saved["left/out"][:], saved["fusion/in/1"][:]], 1)
    np.testing.assert_array_equal(saved["fusion/out"][:], both)
    close(both, model.predict(X, verbose=0))


class Counting(layers.Layer):
    """Counts how often Python runs through it."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_nothing_runs_after_the_last_wanted_value(kind):
    early, late = layers.Dense(3, name="early"), layers.Dense(2, name="late")
    counting = Counting(name="counting")
    if kind == "functional":
        inputs = keras.Input([4])
        model = keras.Model(inputs, late(counting(early(inputs))))
    else:

        class Chain(keras.Model):
            def call(self, x):
                return late(counting(early(x)))

        model = Chain()
        model.late, model.counting, model.early = late, counting, early
        model(X)
    tap = planned_pass(model, layertap.plan(model, like=X, outputs="early"))
    Counting.calls = 0
    for batch in Feed(X, input_specs(model), 2).batches():
        close(tap(batch)["early/out"], dense(early, X[batch.row :][: batch.rows]))
    assert Counting.calls == 0


class Patches(layers.Layer):
    """Cuts rows into patches as if their number were unknown."""

    def call(self, x):
        return ops.reshape(x, (ops.shape(x)[0], -1, 2))


def test_a_size_that_follows_from_known_ones_is_known():
    inputs = keras.Input([4])
    model = keras.Model(inputs, Patches(name="patches")(inputs))
    (value,) = layertap.plan(model, outputs="patches").outputs
    assert value.shape == (None, 2, 2)


class Similarities(layers.Layer):
    """Compares each row of a batch with each."""

    def call(self, x):
        return ops.matmul(x, ops.transpose(x))


def test_values_whose_size_is_that_of_their_batch_are_refused():
    inputs = keras.Input([4])
    model = keras.Model(inputs, Similarities(name="similar")(inputs))
    with pytest.raises(DataError, match=r"similar/out .* one shape\. .*\(1,\), \(2,\)"):
        captured(model, "similar")


def test_a_glob_selects_every_call_and_a_path_selects_one():
    x = keras.Input([4])
    a = layers.Dense(2, name="a")
    joined = layers.Concatenate(name="fusion")([a(x), x])
    steps = layers.TimeDistributed(keras.Model(x, joined, name="inner"), name="steps")
    inputs = keras.Input([3, 4])
    model = keras.Model(inputs, steps(inputs))
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    values = captured(model, "*/a", x)
    close(np.stack(list(values.values()), 1), dense(a, x))
    assert list(captured(model, "steps/a", x)) == ["steps/a/out"]
    branches = layertap.capture(model, x, before="*/fusion", batch_size=2)
    close(np.stack([branches[name] for name in branches][1::2], 1), x)
    assert len(layertap.plan(model, before="steps/fusion").joins) == 1
