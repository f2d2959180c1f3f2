"""Splits that are refused, and models that graphs can't show."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import ModelError, OptionError
from tests.support.splits import (
    Drops,
    PassesTraining,
    assert_same_bits,
    encoder,
    load,
    nodes_of,
    run,
    six,
    skipping,
)

pytestmark = pytest.mark.every_backend


@pytest.mark.parametrize("training", [True, False])
def test_a_node_may_have_its_own_training_argument(training):
    inner = PassesTraining(None).base
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(2)(inner(x, training=training)))
    stem, head = layertap.split(model)
    weights = model.get_weights()
    expected = ops.convert_to_numpy(model(six(4)))
    model.set_weights(weights)
    np.testing.assert_array_equal(ops.convert_to_numpy(head(stem(six(4)))), expected)


class Counts(keras.layers.Layer):
    """Joins, and has a regularizer, or a variable that its `call` reads or changes."""

    def __init__(self, how: str, **kwargs: Any) -> None:
        regularizer = "l2" if how == "regularizer" else None
        super().__init__(name="counts", activity_regularizer=regularizer, **kwargs)
        self.how = how
        self.count = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x):
        if self.how == "changes":
            self.count.assign(7.0)
        factor = float(self.count.value) if self.how == "reads" else 1.0
        return ops.concatenate([x * factor, x], axis=-1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("regularizer", "counts has an activity regularizer"),
        ("changes", "reads or changes counts/"),
    ],
)
def test_a_call_that_a_graph_would_change_is_refused(how, message):
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(2)(Counts(how)(x)))
    before = model.get_weights()
    with pytest.raises(ModelError, match=message):
        layertap.split(model)
    assert_same_bits(model.get_weights(), before)


def test_a_weight_that_is_a_constant_of_a_graph_is_refused():
    x = keras.Input((6,))
    dense = layers.Dense(6, name="dense")
    joined = layers.Concatenate(name="fusion")([dense(x)[:, :3], x[:, :3]])
    model = keras.Model(x, layers.Dense(2, name="head")(ops.add(joined, dense.bias)))
    with pytest.raises(ModelError, match="passes weights"):
        layertap.split(model, "fusion")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_call_in_mixed_precision(policy):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = Drops()
        model(six(4))
    finally:
        keras.config.set_dtype_policy(previous)
    stem, head = layertap.split(model, like=six(4))
    planned = layertap.plan(model, like=six(4)).joins[0].branches
    assert {name: tensor.dtype for name, tensor in head.input.items()} == {
        branch.address: branch.dtype for branch in planned
    }
    assert_same_bits(run(head, stem(six(4))), run(model, six(4)))


@pytest.mark.parametrize("before", ["encoder/mixed", "encoder@2/mixed"])
def test_a_model_that_is_called_twice_is_opened_twice(before, tmp_path):
    x = keras.Input((6,), name="x")
    inner = encoder("encoder", 3)
    ends = [inner(x), inner(layers.Dense(6, name="turn")(x))]
    model = keras.Model(x, layers.Dense(2, name="end")(layers.Add(name="sum")(ends)))
    parts = layertap.split(model, before)
    inputs = six(3)
    for part in parts:
        part.save(tmp_path / "part.keras")
        loaded, expected = load(tmp_path / "part.keras"), run(part, inputs)
        assert len(loaded.weights) == len(part.weights)
        assert_same_bits(run(loaded, inputs), expected)
        inputs = part(inputs)
    assert_same_bits(run(parts[1], parts[0](six(3))), run(model, six(3)))


def test_outputs_keep_their_names():
    x = keras.Input((6,), name="x")
    early = layers.Dense(2, name="early")(x)
    joined = layers.Concatenate(name="fusion")([layers.Dense(3)(x), x])
    model = keras.Model(x, [layers.Dense(2, name="late")(joined), early])
    _, head = layertap.split(model)
    assert list(head.output_names) == list(model.output_names) == ["late", "early"]
    head.compile("sgd", loss={"late": "mse", "early": "mae"})
    values, y = layertap.capture(model, six(8), for_head=True), np.ones((8, 2))
    head.fit({name: values[name] for name in values}, [y, y], epochs=1, verbose=0)


def test_many_threads_may_read_configurations():
    model = skipping()
    _, head = layertap.split(model, "fusion")
    expected = {id(owner): str(owner.get_config()) for owner in (model, head)}
    with ThreadPoolExecutor(3) as pool:
        for owner, actual in pool.map(
            lambda owner: (owner, str(owner.get_config())), [model, head] * 60
        ):
            assert actual == expected[id(owner)]


class Minds(keras.layers.Layer):
    """Joins, and does something that a graph can't do."""

    def __init__(self, how: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.how = how
        self.scale = self.add_weight(shape=(1,), initializer="ones")
        self.inner = layers.Dense(6)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x, training=False):
        joined = ops.concatenate([self.inner(x), x], axis=-1)
        if self.how == "weights":
            return joined * self.scale
        if self.how == "training" and training:
            return ops.relu(joined)
        if self.how == "values":
            return joined if ops.all(ops.equal(joined, joined)) else x
        return joined


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("weights", "`call` of minds passes weights"),
        ("training", "something else when it is trained"),
    ],
)
def test_a_call_that_a_graph_cannot_do_is_refused(how, message):
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(2)(Minds(how, name="minds")(x)))
    nodes = nodes_of(model)
    with pytest.raises(ModelError, match=message) as raised:
        layertap.split(model)
    assert "Instead, " in str(raised.value)
    assert nodes_of(model) == nodes
    with pytest.raises(ModelError, match=message):
        layertap.plan(model, for_head=True)
    # Without a head, no graph is needed.
    assert len(layertap.capture(model, six(2))) == 2


def test_a_head_accepts_neither_reduced_nor_padded_values():
    with pytest.raises(OptionError, match="complete values"):
        layertap.plan(skipping(), before="fusion", for_head=True, reduce="avg")
    with pytest.raises(OptionError, match="true sizes"):
        layertap.capture(skipping(), six(3), before="fusion", for_head=True, pad=True)
    with pytest.raises(OptionError, match="Pass `before="):
        layertap.plan(skipping(), outputs="a", for_head=True)


def test_a_cut_before_an_attention_is_refused():
    x = keras.Input((4, 6))
    seen = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    with pytest.raises(ModelError, match="before an attention"):
        layertap.split(keras.Model(x, seen), joins="attention")


@pytest.mark.parametrize("name", ["fusion_in_0", "c_out"])
def test_inputs_of_a_head_are_not_named_like_its_layers(name):
    x = keras.Input((6,), name="x")
    c = layers.Dense(3, name="c")(x)
    joined = layers.Concatenate(name="fusion")([layers.Dense(2, name="a")(x), x])
    end = layers.Dense(3, name=name)(joined)
    model = keras.Model(x, layers.Add()([end, c]))
    stem, head = layertap.split(model, "fusion")
    assert head.get_layer(name) is model.get_layer(name)
    assert_same_bits(run(head, stem(six(3))), run(model, six(3)))
