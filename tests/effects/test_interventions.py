"""A model with other values in the place of its own, computed by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from tests.support import native

pytestmark = pytest.mark.every_backend

X = np.random.default_rng(3).normal(size=(7, 6)).astype("float32")
OTHER = np.random.default_rng(4).normal(size=(7, 4)).astype("float32")


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def weights(model, name):
    found = getattr(model, name, None) or model.get_layer(name)
    return found.get_weights()


def dense(model, name, x):
    w, c = weights(model, name)
    return x @ w + c


def skipping():
    """A model with a branch that also skips its join."""
    x = keras.Input((6,), name="x")
    left = layers.Dense(4, name="left")(x)
    right = layers.Dense(4, name="right")(x)
    joined = layers.Concatenate(name="fusion")([left, right])
    total = layers.Add(name="total")([layers.Dense(4, name="head")(joined), left])
    return keras.Model(x, {"y": total, "parts": [right, joined]})


def by_hand(model, left=None, right=None, skip=None):
    """Returns the outputs of `skipping`, with other branches and another skip."""
    left = dense(model, "left", X) if left is None else left
    right = dense(model, "right", X) if right is None else right
    skip = dense(model, "left", X) if skip is None else skip
    joined = np.concatenate([left, right], axis=1)
    y = dense(model, "head", joined) + skip
    return {"y": y, "parts": [dense(model, "right", X), joined]}


def assert_outputs(actual, expected):
    assert actual.keys() == expected.keys()
    close(actual["y"], expected["y"])
    assert len(actual["parts"]) == 2
    for one, other in zip(actual["parts"], expected["parts"], strict=True):
        close(one, other)


def test_nothing_replaced_is_the_model():
    model = skipping()
    assert_outputs(layertap.tap(model).predict(X), by_hand(model))


@pytest.mark.parametrize(
    ("new", "branch"),
    [
        (OTHER, lambda right: OTHER),
        (OTHER.astype("float64"), lambda right: OTHER),
        (np.ones((7, 4), "int32"), np.ones_like),
        ("zero", np.zeros_like),
        ("mean", lambda right: np.tile(right.mean(0), (7, 1))),
        (lambda x: 2 * ops.tanh(x), lambda right: 2 * np.tanh(right)),
    ],
    ids=["array", "float64", "integers", "zero", "mean", "function"],
)
def test_a_branch_is_replaced_in_its_join_alone(new, branch):
    model = skipping()
    tap = layertap.tap(model)
    right = dense(model, "right", X)
    actual = tap.predict(X, replace={"fusion/in/1": new})
    assert_outputs(actual, by_hand(model, right=branch(right)))
    left = dense(model, "left", X)
    actual = tap.predict(X, replace={"fusion/in/0": new})
    assert_outputs(actual, by_hand(model, left=branch(left)))
    assert_outputs(tap.predict(X), by_hand(model))


def test_an_output_is_replaced_for_all_that_follow():
    model = skipping()
    tap = layertap.tap(model, before="fusion", outputs=["left", "fusion"])
    actual = tap.predict(X, replace={"left/out": OTHER})
    assert_outputs(actual, by_hand(model, left=OTHER, skip=OTHER))
    joined = np.concatenate([OTHER, -OTHER], axis=1)
    actual = tap.predict(X, replace={"fusion/out": joined})
    assert_outputs(actual, by_hand(model, left=OTHER, right=-OTHER))


def test_several_values_are_replaced_at_once():
    model = skipping()
    tap = layertap.tap(model, before="fusion", outputs="left")
    replace = {"fusion/in/0": "zero", "fusion/in/1": OTHER, "left/out": "mean"}
    mean = np.tile(dense(model, "left", X).mean(0), (7, 1))
    expected = by_hand(model, left=0 * OTHER, right=OTHER, skip=mean)
    assert_outputs(tap.predict(X, replace=replace), expected)


def test_new_weights_count_and_other_arrays_compile_nothing(traces):
    model = skipping()
    tap = layertap.tap(model)
    tap.predict(X, replace={"fusion/in/1": OTHER})
    traced = len(traces)
    model.get_layer("head").set_weights([w + 1 for w in weights(model, "head")])
    actual = tap.predict(X, replace={"fusion/in/1": -OTHER})
    assert_outputs(actual, by_hand(model, right=-OTHER))
    if keras.backend.backend() != "torch":
        assert len(traces) == traced
    assert_outputs(model.predict(X, verbose=0), by_hand(model))


class Joining(keras.Model):
    """Two dense towers, and a function of their outputs; one is an output, too."""

    def __init__(self, function):
        super().__init__()
        self.left = layers.Dense(4, name="left")
        self.right = layers.Dense(4, name="right")
        self.function = function

    def call(self, x):
        left, right = self.left(x), self.right(x)
        return ops.sin(self.function(left, right)), left


JOINS = {
    "concatenate": (
        lambda a, b: native.concatenate([a, b], 1),
        lambda a, b: np.concatenate([a, b], axis=1),
    ),
    "stack": (lambda a, b: native.stack([a, b], 1), lambda a, b: np.stack([a, b], 1)),
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "maximum": (native.maximum, np.maximum),
    "concatenate, of Keras": (
        lambda a, b: ops.concatenate([a, b], axis=-1),
        lambda a, b: np.concatenate([a, b], axis=-1),
    ),
    "multiply, of Keras": (ops.multiply, np.multiply),
}


@pytest.mark.parametrize("name", JOINS)
def test_joins_inside_a_call(name):
    function, join = JOINS[name]
    model = Joining(function)
    model(X)
    kind = name.partition(",")[0]
    paths = [j.path for j in layertap.plan(model, joins=(kind,)).joins]
    (path,) = (path for path in paths if "/" not in path)
    tap = layertap.tap(model, joins=(kind,), before=path)
    left, right = (dense(model, tower, X) for tower in ("left", "right"))
    for branches, replace in (
        ((left, right), {}),
        ((OTHER, right), {f"{path}/in/0": OTHER}),
        ((left, 0 * right), {f"{path}/in/1": "zero"}),
        ((right, left), {f"{path}/in/0": right, f"{path}/in/1": left}),
    ):
        joined, tower = tap.predict(X, replace=replace)
        close(joined, np.sin(join(*branches)))
        close(tower, left)


def test_layers_that_are_a_join_and_models_inside_of_models():
    inner_x = keras.Input((6,), name="inner_x")
    made = [layers.Dense(3, name=name)(inner_x) for name in ("a", "b")]
    dot = layers.Dot(axes=1, name="dot")(made)
    parts = layers.Concatenate(name="parts")([dot, made[0]])
    inner = keras.Model(inner_x, parts, name="inner")
    x = keras.Input((6,), name="x")
    joined = layers.Add(name="sum")([inner(x), inner(2 * x)])
    model = keras.Model(x, joined)
    before = ["inner/dot", "inner@2/dot", "inner/parts", "sum"]
    tap = layertap.tap(model, joins="all", before=before)

    def part(x, a=None, b=None, joined=None):
        a = dense(inner, "a", x) if a is None else a
        b = dense(inner, "b", x) if b is None else b
        dot = (a * b).sum(1, keepdims=True) if joined is None else joined
        return np.concatenate([dot, dense(inner, "a", x)], axis=1)

    close(tap.predict(X), part(X) + part(2 * X))
    # The second call of the same model.
    actual = tap.predict(X, replace={"inner@2/dot/in/1": "zero"})
    close(actual, part(X) + part(2 * X, b=np.zeros((7, 3))))
    actual = tap.predict(X, replace={"inner/parts/in/0": np.ones((7, 1), "float32")})
    close(actual, part(X, joined=np.ones((7, 1))) + part(2 * X))
    actual = tap.predict(X, replace={"sum/in/1": "zero"})
    close(actual, part(X))


def test_it_is_the_head_of_a_split():
    several = skipping()
    model = keras.Model(several.input, several.output["y"])
    stem, head = layertap.split(model, before="fusion")
    parts = stem.predict(X, verbose=0) | {"fusion/in/1": OTHER}
    actual = layertap.tap(model).predict(X, replace={"fusion/in/1": OTHER})
    close(actual, head.predict(parts, verbose=0))


def test_functions_may_have_layers_and_arrays_of_their_own():
    model = Joining(JOINS["add"][0])
    model(X)
    paths = [j.path for j in layertap.plan(model, joins="add").joins]
    (path,) = (path for path in paths if "/" not in path)
    tap = layertap.tap(model, joins="add", before=path, outputs="right")
    inner = layers.Dense(4, name="right")
    own = keras.Sequential([keras.Input((4,)), inner])
    replace = {f"{path}/in/0": own, "right/out": lambda x: ops.add(x, OTHER)}
    joined, _ = tap.predict(X, replace=replace)
    w, c = inner.get_weights()
    right = dense(model, "right", X) + OTHER
    close(joined, np.sin(dense(model, "left", X) @ w + c + right))


class Setting:
    """A setting of a program."""

    scale = 1.0


SCALES = {"scale": 1.0}
SCALE = 1.0


def test_what_functions_read_counts(monkeypatch):
    model = skipping()
    tap = layertap.tap(model)
    right = dense(model, "right", X)
    functions = [
        lambda x: x * Setting.scale,
        lambda x: (lambda y: y * SCALE)(x),
        lambda x: sum(x * SCALE for _ in range(1)),
        lambda x: x * SCALES["scale"],
    ]
    for scale in (1.0, 5.0):
        monkeypatch.setattr(Setting, "scale", scale)
        monkeypatch.setitem(globals(), "SCALE", scale)
        monkeypatch.setitem(SCALES, "scale", scale)
        for function in functions:
            actual = tap.predict(X, replace={"fusion/in/1": function})
            assert_outputs(actual, by_hand(model, right=scale * right))


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="PyTorch alone joins in place"
)
def test_a_join_in_place_is_refused():
    def call(a, b):
        a = 1 * a
        a.add_(b)
        return a

    model = Joining(call)
    model(X)
    paths = [j.path for j in layertap.plan(model, joins="add").joins]
    (path,) = (path for path in paths if "/" not in path)
    tap = layertap.tap(model, joins="add", before=path)
    with pytest.raises(layertap.RefusedError, match="writes into a tensor"):
        tap.predict(X, replace={f"{path}/in/0": "zero"})


@pytest.mark.parametrize(
    ("replace", "error", "message"),
    [
        ({"fusion/in/7": "zero"}, layertap.AddressError, "fusion/in/1"),
        ({"fusion/in/1": OTHER[:, :3]}, layertap.DataError, r"\(7, 4\).*\(7, 3\)"),
        ({"fusion/in/1": OTHER[:3]}, layertap.DataError, r"\(7, 4\).*\(3, 4\)"),
        ({"fusion/in/1": OTHER + 1j}, layertap.DataError, "float32.*complex"),
        (
            {"fusion/in/1": np.full((7, 4), 1e300)},
            layertap.DataError,
            "infinite in its dtype",
        ),
        ({"fusion/in/1": "nothing"}, layertap.OptionError, "'zero', 'mean'"),
        ({"fusion/in/1": OTHER.astype(str)}, layertap.OptionError, "array of numbers"),
        ({"fusion/in/1": [[1.0], [2.0, 3.0]]}, layertap.OptionError, "of numbers"),
        ({"fusion/in/1": lambda x: None}, layertap.OptionError, "Received None"),
        ({"fusion/in/1": lambda x: x[:1]}, layertap.DataError, r"7, 4\).*\(1, 4"),
        ({"fusion/in/1": lambda x: x.nothing}, layertap.OptionError, "AttributeErr"),
        ({"fusion/in/1": layers.Dense(4)}, layertap.OptionError, "Call it once"),
        (["fusion/in/1"], layertap.OptionError, "a dictionary"),
        (
            {"fusion/in/1": lambda x: x[:, :3]},
            layertap.DataError,
            r"^fusion/in/1 .*4\).*3\)",
        ),
        ({"x/out": OTHER}, layertap.AddressError, "x/out"),
    ],
)
def test_what_does_not_fit_is_refused_by_address(replace, error, message):
    model = skipping()
    with pytest.raises(error, match=message):
        layertap.tap(model).predict(X, replace=replace)
    assert_outputs(model.predict(X, verbose=0), by_hand(model))


def test_what_can_not_be_replaced_is_refused():
    model = skipping()
    reduced = layertap.tap(model, dtype="float16")
    with pytest.raises(layertap.OptionError, match="without `reduce` and `dtype`"):
        reduced.predict(X, replace={"fusion/in/0": "zero"})
    tap = layertap.tap(model, outputs="x")
    with pytest.raises(layertap.ListeningError, match="an input of the model"):
        tap.predict(X, replace={"x/out": "zero"})
