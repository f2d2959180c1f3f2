"""A model in two parts that share its layers and, in turn, compute the same bits."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import ModelError, OptionError
from tests.zoo import CASES

pytestmark = pytest.mark.every_backend

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

# The join is inside a layer whose `call` can't be run with symbolic tensors, or a mask
# would cross the cut.
REFUSED = {
    "class_token": "`call` of token",
    "masks_side_by_side": "fusion/in/0 has a mask",
    "masks_end_to_end": "fusion/in/0 has a mask",
}
if hasattr(layers.Bidirectional, "_can_attempt_fused_lstm"):
    # Newer releases of Keras look for kernels that need a number of rows.
    REFUSED["bidirectional_sequences"] = "`call` of bidirectional"
    REFUSED["bidirectional_last"] = "`call` of bidirectional"


def run(model: keras.Model, x: Any) -> list[np.ndarray]:
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]


def assert_same_bits(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.tobytes() == other.tobytes()


def nodes_of(model: keras.Model) -> dict[int, tuple[list[int], list[int]]]:
    return {
        id(layer): (
            list(map(id, layer._inbound_nodes)),
            list(map(id, layer._outbound_nodes)),
        )
        for layer in model._flatten_layers()
    }


@every_case
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


# A third of them: saved values do not depend on how a stem is made.
SAVED = [case for case in CASES if case.name not in REFUSED][::3]


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
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


def skipping() -> keras.Model:
    """A model in which a branch, `c` and the input run past the join `fusion`."""
    x = keras.Input((6,), name="x")
    a, b = layers.Dense(5, name="a")(x), layers.Dense(4, name="b")(x)
    c = layers.Dense(4, name="c")(b)
    joined = layers.Concatenate(name="fusion")([a, b])
    total = layers.Add(name="total")([layers.Dense(4, name="d")(joined), b, c])
    late = layers.Concatenate(name="late")([total, x])
    return keras.Model(x, [layers.Dense(2, name="out")(late), c])


def six(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")


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


def encoder(name: str, units: int) -> keras.Model:
    x = keras.Input((6,), name="x")
    both = [layers.Dense(units, name="dense")(x), layers.Dense(3, name="dense_1")(x)]
    joined = layers.Concatenate(name="mixed")(both)
    return keras.Model(x, layers.Dense(3, name="top")(joined), name=name)


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


def load(path: Any) -> keras.Model:
    with warnings.catch_warnings():
        # Keras expects the names of input layers, which have no slash.
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.models.load_model(path)


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


class Drops(keras.Model):
    """Joins in its `call`, and drops values of the join when it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = layers.Dense(20), layers.Dense(30)
        self.drop, self.top = layers.Dropout(0.5), layers.Dense(200)

    def call(self, x, training=False):
        joined = ops.concatenate([self.left(x), self.right(x)], axis=-1)
        return self.top(ops.relu(self.drop(joined, training=training)))


def test_a_head_receives_training():
    model, x = Drops(), six(4)
    model(x)
    stem, head = layertap.split(model, like=x)
    values = stem(x)
    assert_same_bits(run(head, values), run(model, x))
    trained = ops.convert_to_numpy(head(values, training=True))
    assert not np.allclose(trained, ops.convert_to_numpy(head(values)))


class PassesTraining(keras.Model):
    """Passes `training` to a functional model inside: always the same, or its own."""

    def __init__(self, fixed: bool | None) -> None:
        super().__init__(name="passes_training")
        x = keras.Input((6,))
        joined = layers.Concatenate(name="fusion")([layers.Dense(3)(x), x])
        normal = layers.BatchNormalization(name="normal")(joined)
        self.base = keras.Model(x, normal, name="base")
        self.fixed, self.top = fixed, layers.Dense(2, name="top")

    def call(self, x, training=None):
        training = training if self.fixed is None else self.fixed
        return self.top(self.base(x, training=training))


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
    model = keras.Model(x, layers.Dense(2)(ops.add(joined, dense.bias)))
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
        layertap.plan(skipping(), before="fusion", for_head=True, reduce="mean")
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
