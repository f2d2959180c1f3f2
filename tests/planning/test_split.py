"""A model in two parts: bit for bit the whole, whose layers they share."""

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
from tests.zoo import CASES, one_in

pytestmark = pytest.mark.every_backend


# Where the join is inside a layer whose `call` can't be run with symbolic tensors, or a
# mask would have to go over the cut.
REFUSED = {
    "class_token": "`call` of token",
    "masks_side_by_side": "fusion/in/0 has a mask",
    "masks_end_to_end": "fusion/in/0 has a mask",
}


if hasattr(layers.Bidirectional, "_can_attempt_fused_lstm"):
    # Newer releases of Keras look for kernels that have numbers of rows.
    REFUSED["bidirectional_sequences"] = "`call` of bidirectional"
    REFUSED["bidirectional_last"] = "`call` of bidirectional"


@pytest.mark.parametrize("case", one_in(6, CASES), ids=lambda case: case.name)
def test_head_of_stem_is_the_model(case):
    model, inputs = case.build(), case.inputs(3)
    expected = run(model, inputs)
    nodes, weights = nodes_of(model), model.get_weights()
    before = list(case.joins)[-1]
    if case.name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[case.name]) as raised:
            layertap.split(model, before, like=inputs)
        assert "Instead, save the branches" in str(raised.value)
        assert nodes_of(model) == nodes
        return
    stem, head = layertap.split(model, before, like=inputs)

    assert_same_bits(run(head, stem(inputs)), expected)

    owned = {id(variable) for variable in model.variables}
    assert {id(v) for v in (*stem.variables, *head.variables)} <= owned
    assert nodes_of(model) == nodes
    assert_same_bits(model.get_weights(), weights)


SAVED = [case for case in CASES if case.name not in REFUSED][::3]


@pytest.mark.parametrize("case", one_in(4, SAVED), ids=lambda case: case.name)
def test_a_head_accepts_the_values_saved_for_it(case, tmp_path):
    model, inputs = case.build(), case.inputs(3)
    before = list(case.joins)[-1]
    expected = model.predict(inputs, verbose=0)
    _, head = layertap.split(model, before, like=inputs)
    saved = layertap.save(
        model, inputs, tmp_path / "values.zarr", before=before, for_head=True
    )
    branches = {name for name in saved if name.startswith(f"{before}/in/")}
    assert set(head.input) == branches | set(saved.plan.skips) == set(saved)
    actual = head.predict({name: saved[name][:] for name in saved}, verbose=0)
    keras.tree.map_structure(case.assert_close, actual, expected)


def test_values_that_run_past_the_join_are_captured(tmp_path):
    model, x = skipping(), six(40)
    plan = layertap.plan(model, before="fusion", for_head=True)
    assert plan.skips == ("c/out", "x/out")
    assert plan.addresses == ["fusion/in/0", "fusion/in/1", "c/out", "x/out"]
    _, head = layertap.split(model, "fusion")
    saved = layertap.save(model, x, tmp_path / "v", before="fusion", for_head=True)
    np.testing.assert_array_equal(saved["x/out"][:], x)
    assert layertap.verify(saved, model, x)
    actual = head.predict({name: saved[name][:] for name in saved}, verbose=0)
    for one, other in zip(actual, model.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_input_is_captured_only_if_it_is_named():
    model, x = skipping(), six(3)
    values = layertap.capture(model, x, outputs=["x", "a"])
    assert list(values) == ["x/out", "a/out"]
    np.testing.assert_array_equal(values["x/out"], x)
    assert "x/out" not in layertap.plan(model, outputs="*").addresses


def test_several_joins_are_one_cut():
    x = keras.Input((6,))
    ends = []
    for side in ("left", "right"):
        both = [layers.Dense(n, name=f"{side}_{n}")(x) for n in (2, 3)]
        ends.append(layers.Concatenate(name=side)(both))
    model = keras.Model(x, layers.Dense(2)(layers.Add()(ends)))
    stem, head = layertap.split(model, ["left", "right"])
    assert sorted(head.input) == [
        *("left/in/0", "left/in/1", "right/in/0", "right/in/1"),
    ]
    assert_same_bits(run(head, stem(six(3))), run(model, six(3)))
    _, head = layertap.split(model, "left")
    assert sorted(head.input) == ["left/in/0", "left/in/1", "right/out"]


def test_a_join_that_only_leads_to_another_is_refused():
    x = keras.Input((6,))
    first = layers.Concatenate(name="first")([x, layers.Dense(2)(x)])
    second = layers.Concatenate(name="second")([first, x])
    model = keras.Model(x, layers.Dense(2)(second))
    with pytest.raises(OptionError, match="'first' leads to the other joins only"):
        layertap.split(model)
    layertap.split(model, "second")


def test_models_with_layers_of_the_same_name_are_both_opened(tmp_path):
    x = keras.Input((6,), name="x")
    left, right = encoder("left", 3), encoder("right", 4)
    turned = layers.Dense(6, name="dense")(x)
    total = layers.Add(name="left_top")([left(turned), right(turned), left(x)])
    model = keras.Model(x, layers.Dense(2, name="top")(total))
    expected = run(model, six(3))
    for before in (["left/mixed"], ["left/mixed", "right/mixed", "left@2/mixed"]):
        stem, head = layertap.split(model, before)
        values = stem(six(3))
        assert_same_bits(run(head, values), expected)
        assert {id(w) for w in head.weights} <= {id(w) for w in model.weights}
        assert len({id(w) for w in head.weights}) == len(head.weights)
        head.save(tmp_path / "head.keras")
        assert_same_bits(run(load(tmp_path / "head.keras"), values), expected)


def test_both_parts_can_be_saved_and_loaded(tmp_path):
    model, x = skipping(), six(3)
    for part, inputs in zip(layertap.split(model, "fusion"), (x, None), strict=True):
        inputs = layertap.split(model, "fusion")[0](x) if inputs is None else inputs
        part.save(tmp_path / "part.keras")
        assert_same_bits(run(load(tmp_path / "part.keras"), inputs), run(part, inputs))
    # The model's own configuration is unchanged.
    assert keras.Model.from_config(model.get_config()).count_params() > 0


def values_of(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    values = layertap.capture(model, x, before="fusion", for_head=True)
    return {name: values[name] for name in values}


@pytest.mark.parametrize("copy", [False, True])
def test_training_a_head_trains_the_model_unless_it_is_a_copy(copy):
    model, x = skipping(), six(32)
    names = [weight.path for weight in model.weights]
    before = model.get_weights()
    _, head = layertap.split(model, "fusion", copy=copy)
    head.compile("sgd", ["mse", "mse"])
    values, y = values_of(model, x), [np.ones((32, 2)), np.ones((32, 4))]
    was = head.predict(values, verbose=0)[0]
    head.fit(values, y, epochs=2, verbose=0)
    assert not np.allclose(head.predict(values, verbose=0)[0], was)
    changed = {
        name
        for name, old, new in zip(names, before, model.get_weights(), strict=True)
        if not np.array_equal(old, new)
    }
    after = {"d/kernel", "d/bias", "out/kernel", "out/bias"}
    assert changed == (set() if copy else after)


def test_a_head_receives_training():
    model, x = Drops(), six(4)
    model(x)
    stem, head = layertap.split(model, like=x)
    values = stem(x)
    assert_same_bits(run(head, values), run(model, x))
    trained = ops.convert_to_numpy(head(values, training=True))
    assert not np.allclose(trained, ops.convert_to_numpy(head(values)))


def test_the_parts_pass_training_on_like_the_model():
    x = six(4)
    model = PassesTraining(None)
    model(x)
    stem, head = layertap.split(model, "base/fusion", like=x)
    weights = model.get_weights()
    for training in (None, False, True):
        expected = ops.convert_to_numpy(model(x, training=training))
        model.set_weights(weights)
        actual = ops.convert_to_numpy(head(stem(x), training=training))
        model.set_weights(weights)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_always_receives_the_same_training_is_refused(training):
    model = PassesTraining(training)
    model(six(4))
    with pytest.raises(ModelError, match=f"always receives training={training}"):
        layertap.split(model, "base/fusion", like=six(4))


QUANTISED = ["float8", "int8"]


@pytest.mark.parametrize("mode", QUANTISED)
def test_copies_of_quantised_models_have_their_weights(mode):
    """A quantised layer has its weights in another order than its copy."""
    x = keras.Input((8,), name="x")
    branches = [layers.Dense(16, name=name)(x) for name in ("left", "right")]
    joined = layers.Concatenate(name="fusion")(branches)
    model = keras.Model(
        x, layers.Dense(4, name="b")(layers.Dense(16, name="a")(joined))
    )
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            layer.quantize(mode)
    data = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")
    expected = model.predict(data, verbose=0)
    stem, head = layertap.split(model, copy=True)
    branches = stem.predict(data, verbose=0)
    np.testing.assert_array_equal(head.predict(branches, verbose=0), expected)
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    np.testing.assert_array_equal(model.predict(data, verbose=0), expected)
