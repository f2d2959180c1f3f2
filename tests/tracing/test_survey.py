"""One trace of passes that differ: by stand-ins for sizes, or in what Keras does."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import ListeningError
from layertap.tracing import survey, survey_pass
from layertap.tracing.keras_internals import RELEASE
from layertap.tracing.model_structure import input_specs

pytestmark = pytest.mark.every_backend

X = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")


class Call(layers.Layer):
    """Calls a function of its inputs."""

    def __init__(self, function, name=None):
        super().__init__(name=name)
        self.function = function

    def call(self, *inputs):
        return self.function(*inputs)


class Positions(layers.Layer):
    """Adds the first rows of a table, which is as long as the longest text."""

    def __init__(self, longest):
        super().__init__(name="positions")
        self.longest = longest

    def build(self, shape):
        self.table = self.add_weight(shape=(self.longest, shape[-1]), name="table")

    def call(self, x):
        return x + ops.broadcast_to(self.table[: ops.shape(x)[1]], ops.shape(x))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape)


def with_positions(longest):
    x = keras.Input((None, 6), name="text")
    joined = layers.Concatenate(name="fusion")([x, Positions(longest)(x)])
    return keras.Model(x, joined, name="reader")


@pytest.mark.parametrize("longest", [100, 77, 20, 5])
def test_a_stand_in_for_an_open_size_is_one_that_the_model_can_take(longest):
    model = with_positions(longest)
    (join,) = layertap.plan(model).joins
    assert [branch.shape for branch in join.branches] == [(None, None, 6)] * 2
    table = ops.convert_to_numpy(model.get_layer("positions").table)
    values = layertap.capture(model, X)
    np.testing.assert_allclose(values["fusion/in/1"], X + table[:4], rtol=1e-6)


class Odd(layers.Layer):
    """Accepts texts of seven words, and says so too late."""

    def call(self, x):
        return ops.reshape(x, (-1, 7 * 6))

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, 42))


def test_where_no_stand_in_fits_the_input_is_named():
    x = keras.Input((None, 6), name="text")
    joined = layers.Concatenate(name="fusion")([Odd(name="odd")(x), layers.LSTM(2)(x)])
    model = keras.Model(x, joined)
    if keras.backend.backend() != "tensorflow":
        # TensorFlow needs no stand-ins.
        words = r"open sizes of text were 96, 32, 8, 2\."
        with pytest.raises(ListeningError, match=words):
            layertap.plan(model)
    seven = np.ones((2, 7, 6), "float32")
    assert layertap.plan(model, like=seven).joins[0].branches[0].shape == (None, 42)


class Two(keras.Model):
    """A subclassed model of two inputs."""

    def call(self, inputs):
        x, y = inputs
        return ops.concatenate([x, y], axis=-1)


def test_an_error_names_the_form_of_several_inputs_of_a_subclassed_model():
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    with pytest.raises(ListeningError, match="pass several inputs as a list"):
        layertap.plan(Two(), like=(x, y))
    assert layertap.plan(Two(), like=[x, y]).joins[0].shape == (None, 5)


def beside(layer, size):
    """Makes a model with a layer whose own joins differ from pass to pass."""
    x = keras.Input((*size,), name="x")
    inner = Call(lambda a: ops.stack([a, 2 * a], axis=1), name="own")(x)
    flat = [layers.Flatten()(value) for value in (inner, layer(x))]
    return keras.Model(x, layers.Concatenate(name="fusion")(flat))


DIFFERENT = {
    "repeat": lambda: (layers.RepeatVector(3), [6]),
    "unrolled": lambda: (layers.LSTM(2, unroll=True), [4, 6]),
    "gather": lambda: (
        Call(lambda x: ops.take_along_axis(x, ops.argsort(x, axis=1), axis=1)),
        [4, 6],
    ),
    "spectrogram": lambda: (
        layers.MelSpectrogram(fft_length=16, num_mel_bins=3),
        [64],
    ),
    "map": lambda: (
        Call(lambda x: ops.map(lambda row: ops.concatenate([row, row], 0), x)),
        [4, 6],
    ),
    "scan": lambda: (
        Call(lambda x: ops.scan(lambda c, r: (c + r, c), x[0], x)[1]),
        [4, 6],
    ),
}


@pytest.mark.filterwarnings("ignore::layertap.PartialWarning")
@pytest.mark.parametrize("name", DIFFERENT)
def test_all_joins_beside_those_that_differ_from_pass_to_pass(name):
    layer, size = DIFFERENT[name]()
    model = beside(layer, size)
    x = np.random.default_rng(0).normal(size=(3, *size)).astype("float32")
    layertap.plan(model, joins="*")
    (own,) = layertap.plan(model, joins="stack", before="own/*").joins
    everything = layertap.capture(model, x, joins="all", batch_size=2)
    assert {own.path, "fusion"} <= {join.path for join in everything.plan.joins}
    one, two = (everything[address] for address in own.addresses)
    np.testing.assert_array_equal(one, x)
    np.testing.assert_array_equal(two, 2 * x)
    np.testing.assert_array_equal(
        everything["fusion/in/0"], np.stack([x, 2 * x], 1).reshape(3, -1)
    )


class Twice(layers.Layer):
    def call(self, x):
        return ops.concatenate([x, 2 * x], axis=-1)


def test_a_layer_that_a_call_makes_has_one_name_in_all_passes():
    x = keras.Input((4, 6), name="x")
    model = keras.Model(x, Call(lambda x: Twice()(x) + Twice()(-x), name="maker")(x))
    paths = ["maker/twice/concatenate", "maker/twice@2/concatenate"]
    for _ in range(2):
        values = layertap.capture(model, X, batch_size=2)
        assert [join.path for join in values.plan.joins] == paths
        for path, expected in zip(paths, (X, -X), strict=True):
            np.testing.assert_array_equal(values[f"{path}/in/1"], 2 * expected)


def test_an_open_size_is_not_taken_for_the_rows():
    def rotated(x):
        angles = ops.cast(ops.arange(ops.shape(x)[1]), "float32")[:, None]
        table = ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=1)
        return ops.concatenate([x, x[..., :2] * table], axis=-1)

    x = keras.Input((None, 6), name="x")
    model = keras.Model(x, Call(rotated, name="rotated")(x))
    *others, join = layertap.plan(model).joins
    # TensorFlow knows neither number before it has data.
    assert bool(others) == (keras.backend.backend() == "tensorflow")
    shapes = [branch.shape for branch in join.branches]
    assert shapes == [(None, None, 6), (None, None, 2)]
    assert [j.path for j in layertap.plan(model, like=X).joins] == [join.path]


def two_layers():
    x = keras.Input((4, 6))
    y = layers.Dense(6, name="dense")(x)
    joined = layers.Concatenate(name="fusion")([layers.ReLU()(y), x])
    return keras.Model(x, layers.GlobalAveragePooling1D()(joined))


def nested():
    x = keras.Input((4, 6))
    joined = layers.Concatenate(name="fusion")([two_layers()(x), ops.sum(x, axis=1)])
    return keras.Model(x, joined)


def folded():
    x = keras.Input((4, 6))
    # Keras does not know the first size of either.
    rows = Call(lambda x: ops.reshape(x, (-1, 6)), name="folded")(x)
    joined = layers.Concatenate(name="fusion")([rows, layers.Dense(2)(rows)])
    return keras.Model(x, joined)


def of_two_rows():
    x = keras.Input((4, 6))
    # The rows that a survey has, whatever rows the data have.
    table = Call(lambda x: ops.ones((2, 6)) * ops.sum(x), name="table")(x)
    joined = layers.Concatenate(name="fusion")([table, 2 * table])
    return keras.Model(x, joined)


class Table(layers.Layer):
    """Two rows of its own, declared as those of the data."""

    def call(self, x):
        return ops.ones((2, 4, 6)) * ops.sum(x)

    def compute_output_shape(self, shape):
        return shape


def declared():
    x = keras.Input((4, 6))
    table = Table()(x)
    joined = layers.Concatenate(name="fusion")([table, layers.ReLU()(table)])
    return keras.Model(x, joined)


@pytest.mark.parametrize(
    ("build", "once"),
    [
        (two_layers, True),
        *((build, False) for build in (nested, folded, of_two_rows, declared)),
    ],
)
def test_a_graph_that_tells_rows_from_other_sizes_is_traced_once(
    build, once, monkeypatch
):
    passes = []
    run = survey._run

    def count(*arguments):
        passes.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(survey, "_run", count)
    model = build()
    found = survey.survey(model, input_specs(model), ["concatenate"])
    if keras.backend.backend() != "jax":
        # There, Keras decides: rows may be a symbol, which no other size is.
        assert (len(passes) == 1) == once
    monkeypatch.setattr(survey, "_with_graph", lambda *arguments: None)
    full = survey.survey(model, input_specs(model), ["concatenate"])
    assert found.joins.keys() == full.joins.keys()
    for name, value in full.values.items():
        one = found.values[name]
        assert (one.shape, one.dtype, one.made_by, one.times, one.fault) == (
            *(value.shape, value.dtype, value.made_by, value.times, value.fault),
        )


def with_method(layer, name, method):
    """Gives a layer a method, as people do to look inside or to change it."""
    setattr(layer, name, method)
    return layer


def repeated(layer):
    call = layer.call
    return with_method(layer, "call", lambda x: ops.concatenate([call(x)] * 2, axis=-1))


def circular(layer):
    convolve = layer.convolution_op
    return with_method(
        layer,
        "convolution_op",
        lambda x, k: convolve(ops.concatenate([x[:, -1:], x, x[:, :1]], axis=1), k),
    )


def halved(layer):
    call = layer.call

    @functools.wraps(call)
    def every_other(x):
        return call(x)[:, ::2]

    return with_method(layer, "call", every_other)


def pruned(layer):
    """Removes filters of a layer."""
    layer.build((None, 9, 4))
    layer._tracker.unlock()
    layer._kernel = keras.Variable(ops.convert_to_numpy(layer.kernel)[..., :2])
    return layer


KNOWN = {
    "one axis": (
        (9, 4),
        lambda: layers.Conv1D(6, 3, padding="causal", dilation_rate=2),
    ),
    "strides": ((9, 8, 4), lambda: layers.Conv2D(6, 3, strides=2, activation="gelu")),
    "same": (
        (9, 8, 4),
        lambda: layers.Conv2D(6, (4, 2), strides=(2, 3), padding="same"),
    ),
    "groups": ((9, 8, 4), lambda: layers.Conv2D(6, 3, groups=2, dilation_rate=2)),
    "three axes": ((5, 6, 7, 2), lambda: layers.Conv3D(3, 2, activation="relu")),
    "normal": ((9, 4), lambda: layers.BatchNormalization(axis=1)),
    "half": ((9, 4), lambda: layers.BatchNormalization(dtype="mixed_float16")),
    "half convolution": ((9, 4), lambda: layers.Conv1D(6, 3, dtype="mixed_bfloat16")),
    "activation": ((9, 4), lambda: layers.Activation("silu", dtype="float16")),
}
RUN = {
    "glu": ((9, 4), lambda: layers.Activation("glu")),
    "glu convolution": ((9, 4), lambda: layers.Conv1D(6, 3, activation="glu")),
    "no cast": ((9, 4), lambda: layers.Activation("relu", autocast=False)),
    "linear": ((9, 4), lambda: layers.Activation("linear")),
    "softmax": ((9, 4), lambda: layers.Activation("softmax")),
    "other call": ((9, 4), lambda: repeated(layers.Conv1D(6, 3))),
    "wrapped call": ((9, 4), lambda: halved(layers.Conv1D(6, 3))),
    "other convolution": ((9, 4), lambda: circular(layers.Conv1D(6, 3))),
    "pruned": ((9, 4), lambda: pruned(layers.Conv1D(6, 3, use_bias=False))),
}


@pytest.mark.parametrize(
    ("shape", "make", "skipped"),
    [
        *(pytest.param(*case, True, id=name) for name, case in KNOWN.items()),
        *(pytest.param(*case, False, id=name) for name, case in RUN.items()),
    ],
)
def test_a_layer_that_a_survey_skips_has_the_outputs_that_it_returns(
    shape, make, skipped, monkeypatch
):
    skips = {}
    may_be_skipped = survey_pass._may_be_skipped

    def note(operation, arguments):
        skips[operation] = may_be_skipped(operation, arguments)
        return skips[operation]

    monkeypatch.setattr(survey_pass, "_may_be_skipped", note)
    x = keras.Input(shape)
    layer = make()
    y = layer(layers.Activation("relu")(x))
    model = keras.Model(x, y)
    plan = layertap.plan(model, outputs=["*", layer.name])
    value = {value.address: value for value in plan.values}[f"{layer.name}/out"]
    if keras.backend.backend() != "jax":
        assert skips.get(layer, False) == (skipped and RELEASE >= (3, 15))
    rows = np.random.default_rng(1).normal(size=(3, *shape)).astype("float32")
    output = layer(ops.convert_to_tensor(rows))
    assert value.shape == (None, *output.shape[1:])
    assert value.dtype == keras.backend.standardize_dtype(output.dtype)


def test_an_activation_that_returns_its_input_is_an_alias():
    x = keras.Input((9, 4))
    branch = layers.Conv1D(6, 3, name="conv")(x)
    same = layers.Activation("linear")(branch)
    model = keras.Model(x, layers.Concatenate(name="fusion")([same, branch]))
    assert len(layertap.plan(model).stored) == 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_outputs_in_mixed_precision_have_the_dtype_that_they_have_in_a_pass(
    policy, tmp_path
):
    x = keras.Input((9, 4))
    made = [
        layers.Conv1D(4, 3, padding="same", name="convolution", dtype=policy),
        layers.Conv1D(4, 3, padding="same", activation="elu", name="elu", dtype=policy),
        layers.Dense(4, name="dense", dtype=policy),
        layers.BatchNormalization(name="normal", dtype=policy),
    ]
    joined = layers.Concatenate(name="fusion")([layer(x) for layer in made])
    model = keras.Model(x, joined)
    rows = np.random.default_rng(1).normal(size=(3, 9, 4)).astype("float32")
    names = [layer.name for layer in made]
    saved = layertap.save(model, rows, tmp_path / "v.zarr", outputs=names)
    for layer in made:
        expected = layer(ops.convert_to_tensor(rows))
        found = saved[f"{layer.name}/out"][:]
        assert found.dtype == keras.backend.standardize_dtype(expected.dtype)
        expected = ops.convert_to_numpy(ops.cast(expected, "float32"))
        np.testing.assert_allclose(found.astype("float32"), expected, atol=0.02)


def test_a_layer_that_was_changed_after_its_model_was_made_is_surveyed_as_it_is():
    x = keras.Input((9, 8, 4))
    branch = layers.Conv2D(6, 3, name="branch")(x)
    model = keras.Model(x, layers.Concatenate(name="fusion")([branch, branch]))
    model.get_layer("branch").strides = (2, 2)
    (join,) = layertap.plan(model).joins
    assert [found.shape for found in join.branches] == [(None, 4, 3, 6)] * 2
