"""Joins by functions of the backend, and joins of all kinds."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import NoJoinsError, OptionError
from tests.support import native
from tests.support.campaign import share
from tests.support.elsewhere import fuse
from tests.support.native import NAME, Calling, compiled, concatenate, data

pytestmark = pytest.mark.every_backend

X = data()


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def compiled_helper(model, x, left, right):
    helper = compiled(lambda a, b: concatenate([a, b], 1))
    return helper(left, right)


class Joining(layers.Layer):
    def call(self, tensors):
        return concatenate(list(tensors), -1)


WAYS = {
    "as imported": lambda m, x, a, b: concatenate([a, b], 1),
    "through its module": lambda m, x, a, b: getattr(
        native.native_module, NAME.partition(".")[2]
    )([a, b], 1),
    "by keyword": lambda m, x, a, b: concatenate([a, b], axis=1),
    "along the last axis": lambda m, x, a, b: concatenate([a, b], -1),
    "hstack": lambda m, x, a, b: native.hstack([a, b]),
    "in another package": lambda m, x, a, b: fuse(concatenate, a, b),
    "in a separately compiled function": compiled_helper,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_native_concatenation_is_traced(way):
    model = Calling(WAYS[way])
    values = layertap.capture(model, X, batch_size=2)
    (join,) = values.plan.joins
    assert (join.path, join.kind, join.axis) == (NAME, "concatenate", 1)
    assert [branch.made_by for branch in join.branches] == ["left", "right"]
    for actual, expected in zip(
        values.before(NAME).values(), model.truth(X), strict=True
    ):
        assert_close(actual, expected)
    assert values.plan.ignored == values.plan.refused == ()


def inside_a_layer(x):
    return Joining(name="fusion")(x)


def inside_a_lambda(x):
    return layers.Lambda(
        lambda tensors: concatenate(list(tensors), 1),
        output_shape=(7,),
        name="fusion",
    )(x)


@pytest.mark.parametrize("join", [inside_a_layer, inside_a_lambda])
@pytest.mark.parametrize("nested", [False, True])
def test_a_native_join_has_the_path_of_its_layer(join, nested):
    inputs = keras.Input([6])
    left, right = layers.Dense(4, name="left"), layers.Dense(3, name="right")
    model = keras.Model(inputs, join([left(inputs), right(inputs)]), name="inner")
    path = f"fusion/{NAME}"
    if nested:
        model = keras.Sequential([keras.Input([6]), model, layers.Dense(2)])
        path = f"inner/{path}"
    values = layertap.capture(model, X)
    assert [join.path for join in values.plan.joins] == [path]
    kernel = keras.ops.convert_to_numpy(left.kernel)
    assert_close(values[f"{path}/in/0"], X @ kernel)


def test_a_join_is_never_traced_twice():
    concatenation = layers.Concatenate(name="fusion")

    def call(model, x, left, right):
        first = concatenation([left, right])
        second = ops.concatenate([first, left], axis=1)
        return concatenate([second, first], 1)

    model = Calling(call)
    paths = [join.path for join in layertap.plan(model, like=X).joins]
    assert sorted(paths) == sorted(["fusion", "concatenate", NAME])


def test_the_second_join_in_a_call_is_numbered_and_has_its_own_values():
    def call(model, x, left, right):
        once = concatenate([left, right], 1)
        twice = ops.concatenate([once, left], axis=1)
        return concatenate([right, twice, x], 1)

    model = Calling(call)
    values = layertap.capture(model, X, batch_size=2)
    left, right = model.truth(X)
    once = np.concatenate([left, right], 1)
    twice = np.concatenate([once, left], 1)
    assert_close(values[f"{NAME}/in/1"], right)
    assert_close(values["concatenate/in/0"], once)
    assert_close(values[f"{NAME}@2/in/1"], twice)
    assert_close(values[f"{NAME}@2/in/2"], X)
    made_by = [branch.made_by for branch in values.plan.join(f"{NAME}@2").branches]
    assert made_by[:2] == ["right", "concatenate"]
    # Only the outputs of the towers and the input are stored.
    assert len(values.plan.stored) == 3


def test_before_accepts_globs_of_native_joins(tmp_path):
    def call(model, x, left, right):
        return concatenate([Joining(name="inner")([left, right]), left], 1)

    model = Calling(call)
    saved = layertap.save(
        model, X, tmp_path / "values.zarr", before=f"*/{NAME}", progress=False
    )
    assert list(saved) == [f"inner/{NAME}/in/0", f"inner/{NAME}/in/1"]
    assert_close(saved[f"inner/{NAME}/in/1"][:], model.truth(X)[1])
    assert layertap.verify(layertap.open(tmp_path / "values.zarr"), model, X)


def test_a_submodel_of_a_native_join_has_its_branch():
    model = Calling(WAYS["as imported"])
    model(X)
    models = layertap.submodels(model, like=X)
    assert list(models) == ["left", "right"]
    assert_close(models["right"].predict(X, verbose=0), model.truth(X)[1])


def indices(model, x, left, right):
    order = ops.argsort(x, axis=1)
    return ops.take_along_axis(x, concatenate([order[:, :2], order[:, 3:4]], 1), 1)


def weights(model, x, left, right):
    kernels = [model.left.kernel.value, model.right.kernel.value]
    return ops.matmul(x, concatenate(kernels, 1))


def resizing(model, x, left, right):
    image = ops.reshape(x, (-1, 2, 3, 1))
    return ops.image.resize(image, (5, 4))


NOT_OF_DATA = {
    "indices": indices,
    "weights": weights,
    "a mask": lambda m, x, a, b: ops.where(concatenate([a > 0, b > 0], 1), 1.0, 0.0),
    "padding": lambda m, x, a, b: native.pad(x),
    "Keras' padding": lambda m, x, a, b: ops.pad(x, ((0, 0), (1, 1)), "reflect"),
    "Keras' einsum": lambda m, x, a, b: ops.einsum("ri,rj->rij", a, b),
    "the backend's einsum": lambda m, x, a, b: native.einsum("ri,rj->rij", a, b),
    "resizing": resizing,
    "a recurrent layer": lambda m, x, a, b: m.recurrent(x[:, :, None]),
    "a preprocessing layer": lambda m, x, a, b: m.preprocessing(x),
}


if keras.backend.backend() == "torch" and keras.__version__.startswith("3.8."):
    # Keras 3.8 resizes with torchvision on PyTorch, and it is not installed.
    NOT_OF_DATA.pop("resizing")


@pytest.mark.parametrize("case", NOT_OF_DATA)
def test_joins_not_of_data_are_left_out_and_listed(case):
    def call(model, x, left, right):
        NOT_OF_DATA[case](model, x, left, right)
        return concatenate([left, right], 1)

    model = Calling(call)
    if case == "a recurrent layer":
        model.recurrent = layers.LSTM(3)
    if case == "a preprocessing layer":
        model.preprocessing = layers.Rescaling(2.0)
    model(X)
    plan = layertap.plan(model, like=X)
    assert [join.path for join in plan.joins] == [f"{NAME}"] or case in (
        "indices",
        "weights",
        "a mask",
    )
    of_data = [
        join
        for join in plan.joins
        if [b.made_by for b in join.branches] == ["left", "right"]
    ]
    assert len(plan.joins) == len(of_data) == 1
    listed = {join.path for join in plan.ignored} | {of_data[0].path}
    everything = layertap.plan(model, like=X, joins="all")
    traced = {j.path for j in everything.joins if j.kind == "concatenate"}
    assert traced == listed
    if case in ("indices", "weights", "a mask"):
        assert len(plan.ignored) == 1


def test_a_wrong_guess_is_overridden_by_its_address():
    model = Calling(indices)
    with pytest.raises(NoJoinsError, match=f"{NAME}: it joins integers"):
        layertap.plan(model, like=X)
    values = layertap.capture(model, X, before=NAME)
    order = np.argsort(X, axis=1)
    np.testing.assert_array_equal(values[f"{NAME}/in/0"], order[:, :2])
    np.testing.assert_array_equal(values[f"{NAME}/in/1"], order[:, 3:4])


def test_integers_joined_by_a_layer_are_data():
    inputs = [keras.Input([2], dtype="int32"), keras.Input([1], dtype="int32")]
    model = keras.Model(inputs, layers.Concatenate(name="tokens")(inputs))
    (join,) = layertap.plan(model).joins
    assert (join.path, join.dtype) == ("tokens", "int32")


MERGES = {
    "add": layers.Add,
    "subtract": layers.Subtract,
    "multiply": layers.Multiply,
    "average": layers.Average,
    "maximum": layers.Maximum,
    "minimum": layers.Minimum,
    "dot": lambda name: layers.Dot(1, name=name),
}
OPERATIONS = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "stack": lambda a, b: ops.stack([a, b], axis=1),
    "dot": lambda a, b: ops.matmul(a[:, None], b[:, :, None]),
}


def two_towers(join):
    inputs = keras.Input([6])
    towers = [layers.Dense(4, name=name) for name in ("left", "right")]
    outputs = join(*(tower(inputs) for tower in towers))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(outputs)))
    return model, [X @ ops.convert_to_numpy(tower.kernel) for tower in towers]


@pytest.mark.parametrize("kind", share(2, MERGES))
def test_a_merging_layer_is_a_join_of_its_kind(kind):
    model, truth = two_towers(lambda a, b: MERGES[kind](name="fusion")([a, b]))
    with pytest.raises(NoJoinsError):
        layertap.plan(model)
    for joins in (kind, "*", ["concatenate", kind]):
        values = layertap.capture(model, X, joins=joins, batch_size=2)
        (join,) = values.plan.joins
        assert (join.path, join.kind, join.axis) == ("fusion", kind, None)
        assert list(values.before("fusion")) == ["left", "right"]
        for actual, expected in zip(
            values.before("fusion").values(), truth, strict=True
        ):
            assert_close(actual, expected)


@pytest.mark.parametrize(
    ("kind", "where"),
    share(3, itertools.product(OPERATIONS, ["in a graph", "in a call"])),
)
def test_an_operation_is_a_join_of_its_kind(kind, where):
    if where == "in a graph":
        model, truth = two_towers(OPERATIONS[kind])
    else:

        def call(model, x, left, right):
            return OPERATIONS[kind](left[:, :3], right)

        model = Calling(call)
        model(X)
        left, right = model.truth(X)
        truth = [left[:, :3], right]
    values = layertap.capture(model, X, joins=kind, batch_size=2)
    (join,) = values.plan.joins
    assert join.kind == kind
    assert join.path == f"ops.{kind}" or where == "in a graph"
    for actual, expected in zip(values.before(join.path).values(), truth, strict=True):
        assert_close(actual.reshape(expected.shape), expected)


OPERATORS = {
    "operator.add": lambda a, b: a + b,
    "operator.sub": lambda a, b: a - b,
    "operator.mul": lambda a, b: a * b,
    "operator.matmul": lambda a, b: a[:, None] @ b[:, :, None],
    native.MAXIMUM: lambda a, b: native.maximum(a, b),
    native.STACK: lambda a, b: native.stack([a, b], 1),
}


@pytest.mark.parametrize("path", OPERATORS)
def test_an_operator_joins_only_where_both_are_data(path):
    def call(model, x, left, right):
        joined = OPERATORS[path](left[:, :3], right)
        # Not data: a number, a bias, and a function that adds inside.
        return native.gelu((joined + 1.0) * 2.0) + model.right.bias[:1]

    model = Calling(call)
    values = layertap.capture(model, X, joins="*", batch_size=2)
    assert [join.path for join in values.plan.joins] == [path]
    left, right = model.truth(X)
    for actual, expected in zip(
        values.before(path).values(), [left[:, :3], right], strict=True
    ):
        assert_close(actual.reshape(expected.shape), expected)


def test_a_sum_with_one_number_is_ignored_with_a_reason():
    def call(model, x, left, right):
        left = left[:, :3]
        return ops.add(ops.add(ops.sum(model.right.bias), left) * 2.0, left)

    model = Calling(call)
    plan = layertap.plan(model, like=X, joins="add")
    assert [join.path for join in plan.joins] == ["ops.add@2"]
    ignored = {join.path: join.reason for join in plan.ignored}
    assert "lack the rows of the data" in ignored["ops.add"]
    left, _ = model.truth(X)
    values = layertap.capture(model, X, joins="add")
    number = ops.convert_to_numpy(ops.sum(model.right.bias))
    assert_close(values["ops.add@2/in/0"], (number + left[:, :3]) * 2)


def test_the_sum_of_a_bidirectional_layer_is_a_join():
    inputs = keras.Input([6, 2])
    layer = layers.Bidirectional(layers.GRU(3), merge_mode="sum", name="both")
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).normal(size=(4, 6, 2)).astype("float32")
    values = layertap.capture(model, x, joins="add")
    assert [join.path for join in values.plan.joins] == ["both/operator.add"]
    forwards, backwards = values.before("both/operator.add").values()
    assert_close(forwards + backwards, model.predict(x, verbose=0))


@pytest.mark.parametrize("with_key", [True, False])
def test_attention_joins_query_key_and_value(with_key):
    inputs = {name: keras.Input([3, 4], name=name) for name in "qvk"}
    towers = {name: layers.Dense(4, name=f"to_{name}") for name in "qvk"}
    q, v, k = (towers[name](inputs[name]) for name in "qvk")
    layer = layers.MultiHeadAttention(2, 2, name="attention")
    attended = layer(q, v, k) if with_key else layer(q, v)
    model = keras.Model(inputs, attended)
    x = {n: np.random.default_rng(ord(n)).normal(size=(5, 3, 4)) for n in "qvk"}
    values = layertap.capture(model, x, joins="attention", batch_size=2)
    (join,) = values.plan.joins
    assert (join.path, join.kind) == ("attention", "attention")
    made_by = [branch.made_by for branch in join.branches]
    third = "to_k" if with_key else "to_v"
    assert made_by == ["to_q", third, "to_v"]
    for index, name in enumerate(["q", third[-1], "v"]):
        kernel = ops.convert_to_numpy(towers[name].kernel)
        assert_close(
            values[f"attention/in/{index}"], x[name].astype("float32") @ kernel
        )


class Streams(layers.MultiHeadAttention):
    """Receives no query and no value, as the attention of XLNet."""

    def build(self, content_shape, position_shape):
        self.built = True

    def call(self, content, position):
        return ops.concatenate([content, position], axis=1)


# "all" has weights among its values, which have no rows.
@pytest.mark.filterwarnings("ignore::layertap.errors.PartialWarning")
@pytest.mark.parametrize("joins", ["*", "all"])
def test_attention_with_other_arguments_is_a_layer_like_others(joins):
    streams = Streams(1, 1, name="streams")
    model = Calling(lambda model, x, left, right: streams(left, right))
    values = layertap.capture(model, X, joins=joins)
    assert "streams" not in [join.path for join in values.plan.joins]
    branches = values.before("streams/concatenate").values()
    for actual, expected in zip(branches, model.truth(X), strict=True):
        assert_close(actual, expected)


def test_an_unknown_kind_is_refused():
    model, _ = two_towers(ops.add)
    with pytest.raises(OptionError, match=r"no kind of join 'added'.*'add'"):
        layertap.plan(model, joins="added")
