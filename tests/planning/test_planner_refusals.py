"""Names, patterns, and what a plan refuses."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import (
    AddressError,
    DataError,
    ModelError,
    NoJoinsError,
    PartialWarning,
)
from tests.support.planned import ROWS, numbers, sizes, two_branches

pytestmark = pytest.mark.every_backend


def down_and_up_again() -> keras.Model:
    """Accepts only sizes that can be halved, as a U-Net does."""
    x = keras.Input((None, None, 3), name="x")
    left = layers.Conv2D(4, 3, padding="same", name="left")(x)
    right = layers.Conv2D(2, 3, strides=4, padding="same", name="right")(x)
    right = layers.UpSampling2D(4, name="up")(right)
    return keras.Model(x, layers.Concatenate(name="fusion")([left, right]))


@pytest.mark.parametrize("like", [numbers(3, 7), numbers(3, 8, 1, 1)])
def test_data_that_the_model_does_not_accept(like):
    with pytest.raises(DataError, match=r"Input 'x' has .*Expected \(rows, 8\)"):
        layertap.plan(two_branches(), like=like)


def test_specs_that_the_model_does_not_accept():
    with pytest.raises((DataError, ModelError), match="x"):
        layertap.plan(two_branches(), like=keras.KerasTensor((None, 7)))


# Patterns.


def named(*names: str) -> keras.Model:
    """Returns a model with one join of each of these names, in this order."""
    x = keras.Input((3,), name="x")
    joined = x
    for name in names:
        joined = layers.Concatenate(name=name)([joined, x])
    return keras.Model(x, joined)


NAMES = {"fusion": "fusion", "..": "%2E%2E", "labels": "%6C%61%62%65%6C%73"}
if keras.backend.backend() != "tensorflow":
    # TensorFlow does not run models with such names.
    NAMES |= {
        "my join": "my%20join",
        "fusión": "fusi%C3%B3n",
        "join@2": "join%402",
        "a[1]": "a%5B1%5D",
        "b%20c": "b%2520c",
    }


PATHS = list(NAMES.values())


@pytest.mark.parametrize(("name", "path"), NAMES.items())
def test_any_name_is_found_as_written_in_keras_and_as_in_the_plan(name, path):
    model = named(*NAMES)
    assert [join.path for join in layertap.plan(model).joins] == PATHS
    pattern = name.replace("[", "[[]")
    for before in (pattern, [pattern], path):
        (join,) = layertap.plan(model, before=before).joins
        assert join.path == path
    values = layertap.capture(model, numbers(2, 3), before=pattern)
    index = PATHS.index(path)
    np.testing.assert_array_equal(
        values[f"{path}/in/0"], np.tile(numbers(2, 3), index + 1)
    )


def test_awkward_names_go_to_a_store_and_back(tmp_path):
    model = named(*NAMES)
    saved = layertap.save(model, numbers(2, 3), tmp_path / "v.zarr")
    assert [join.path for join in saved.plan.joins] == PATHS
    for index, path in enumerate(PATHS):
        expected = np.tile(numbers(2, 3), index + 1)
        np.testing.assert_array_equal(saved[f"{path}/in/0"][:], expected)


def test_a_star_crosses_slashes():
    inner = two_branches()
    x = keras.Input((8,), name="x")
    joined = layers.Concatenate(name="top")([inner(x), inner(x)])
    model = keras.Model(x, joined)

    def paths(before):
        return [join.path for join in layertap.plan(model, before=before).joins]

    assert paths("*") == ["two/fusion", "two@2/fusion", "top"]
    assert paths("*fusion") == ["two/fusion", "two@2/fusion"]
    assert paths("t*") == ["two/fusion", "two@2/fusion", "top"]
    assert paths(["top", "two@2/*"]) == ["two@2/fusion", "top"]
    outputs = layertap.plan(model, outputs=["*left", "two"]).outputs
    assert [output.address for output in outputs] == [
        "two/left/out",
        "two/out",
        "two@2/left/out",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"before": "fusoin"}, "No join.*'fusoin'.*Did you mean 'fusion'"),
        ({"before": ["fusion", "zzz"]}, r"'zzz'.*Known \(1\): 'fusion'"),
        ({"outputs": "rigth"}, "No operation.*'rigth'.*Did you mean 'right'"),
        ({"before": "left"}, "No join.*'left'"),
    ],
)
def test_a_pattern_that_matches_nothing_names_what_is_near(options, words):
    with pytest.raises(AddressError, match=words):
        layertap.plan(two_branches(), **options)
    with pytest.raises(KeyError):
        layertap.plan(two_branches(), **options)


# Joins of other things than data.


def test_an_error_for_no_joins_says_what_to_pass():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(2, name="only")])
    with pytest.raises(NoJoinsError, match=f"{model.name!r}.*outputs="):
        layertap.plan(model)
    with pytest.raises(NoJoinsError):
        layertap.plan(model, before="fusion", outputs="only")
    assert layertap.plan(model, outputs="only").addresses == ["only/out"]


class Joiner(layers.Layer):
    """Joins shapes, indices, masks and weights in addition to its data."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, x):
        ops.concatenate([ops.arange(2), ops.arange(3)])
        ops.concatenate([x > 0, x > 1], axis=1)
        kernel = ops.concatenate([self.kernel, self.kernel], axis=1)
        ops.concatenate([ops.convert_to_tensor([1, 2]), ops.convert_to_tensor([3])])
        return ops.concatenate([ops.matmul(x, kernel), x], axis=1)


def test_shapes_masks_indices_and_weights_are_no_branches():
    x = keras.Input((8,), name="x")
    model = keras.Model(x, Joiner(name="joiner")(x))
    plan = layertap.plan(model)
    assert [value.shape for value in plan.values] == [(None, 4), (None, 8)]
    (join,) = plan.joins
    assert join.path.startswith("joiner/concatenate")
    values = layertap.capture(model, numbers(ROWS, 8))
    np.testing.assert_array_equal(values[join.branches[1].address], numbers(ROWS, 8))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_weight_next_to_data_is_refused_and_the_rest_is_captured(rows):
    """Keras does not broadcast in a join: along axis 0, a weight can be joined."""

    class Bank(layers.Layer):
        def build(self, shape):
            self.memory = self.add_weight(shape=(5, shape[-1]), name="memory")

        def call(self, x):
            return ops.concatenate([x, self.memory], axis=0)

    x = keras.Input((3,), name="x")
    model = keras.Model(x, Bank(name="bank")(layers.Concatenate(name="two")([x])))
    plan = layertap.plan(model, like=numbers(rows, 3))
    assert "bank/concatenate/in/1" not in plan.addresses
    assert [refused.address for refused in plan.refused] == ["bank/concatenate/in/1"]
    with pytest.warns(PartialWarning, match="bank/concatenate/in/1"):
        values = layertap.capture(model, numbers(rows, 3))
    np.testing.assert_array_equal(values["bank/concatenate/in/0"], numbers(rows, 3))


def test_a_join_of_rows():
    x = keras.Input((8,), name="x")
    left, right = (layers.Dense(4, name=name)(x) for name in ("left", "right"))
    joined = layers.Concatenate(axis=0, name="rows")([left, right])
    model = keras.Model(x, joined)
    plan = layertap.plan(model)
    (join,) = plan.joins
    assert join.axis == 0
    assert sizes(plan) == {"rows/in/0": (None, 4), "rows/in/1": (None, 4)}
    assert plan.bytes_per_row == 32
    data = numbers(ROWS, 8)
    values = layertap.capture(model, data)
    np.testing.assert_allclose(
        np.concatenate(list(values.before("rows").values()), 0),
        keras.ops.convert_to_numpy(model(data)),
        rtol=1e-5,
        atol=1e-6,
    )


# The model.


@pytest.mark.parametrize(
    "model", [layers.Dense(3), keras.Model, None, {"a": 1}, object()]
)
def test_an_object_that_is_not_a_model_is_refused(model):
    with pytest.raises(ModelError, match=r"keras\.Model of Keras 3\. Received"):
        layertap.plan(model)


def test_the_error_for_a_model_of_keras_2_says_what_to_do():
    # As in tf_keras: a class of this name from another package.
    older = type("Functional", (), {"__module__": "tf_keras.src.engine.functional"})
    with pytest.raises(ModelError, match=r"tf_keras.*\.keras or \.h5"):
        layertap.plan(older())


def test_planning_leaves_the_model_as_it_was():
    model = two_branches()
    counts = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in model.layers]
    weights = model.get_weights()
    for _ in range(2):
        layertap.plan(model)
        layertap.plan(model, like=numbers(3, 8), outputs="*")
    after = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in model.layers]
    assert after == counts
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.trainable_weights
    assert len(model.trainable_weights) == len(weights)


class Breaks(layers.Layer):
    """Works only while its model is made."""

    broken = False

    def call(self, x):
        if self.broken:
            raise ValueError("no way")
        return x + 1.0


def test_only_calls_with_that_option_advise_to_pass_like():
    x = keras.Input((8,), name="x")
    both = layers.Concatenate(name="fusion")([Breaks(name="breaks")(x), x])
    model = keras.Model(x, both, name="breaking")
    model.get_layer("breaks").broken = True
    for call, advises in (
        (lambda: layertap.plan(model), True),
        (lambda: layertap.split(model), True),
        (lambda: layertap.plan(model, like=numbers(3, 8)), False),
        (lambda: layertap.capture(model, numbers(3, 8)), False),
    ):
        with pytest.raises(ModelError, match="no way") as raised:
            call()
        assert ("like=" in str(raised.value)) == advises


def test_sizes_that_have_to_be_halved_are_unknown_too():
    (join,) = layertap.plan(down_and_up_again()).joins
    shapes = [branch.shape for branch in join.branches]
    assert shapes == [(None, None, None, 4), (None, None, None, 2)]
