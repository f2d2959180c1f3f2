"""Values whose rows TensorFlow does not know are captured, or named by a real batch."""

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import DataError, OptionError, PartialWarning, RefusedError

pytestmark = pytest.mark.every_backend

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TensorFlow alone has sizes that are unknown until it runs, and Keras runs "
    f"on {keras.backend.backend()}",
)

X = np.random.default_rng(2).normal(size=(10, 4)).astype("float32")


def of_numpy(x):
    import tensorflow as tf

    return tf.numpy_function(lambda rows: np.sin(rows), [x], tf.float32)


class InNumPy(layers.Layer):
    """Computes sines in NumPy: TensorFlow knows neither rows nor sizes."""

    def call(self, x):
        import tensorflow as tf

        return tf.ensure_shape(of_numpy(x), (None, 4))

    def compute_output_shape(self, shape):
        return shape


class Positive(layers.Layer):
    """Leaves rows out, so that it has another number of them."""

    def call(self, x):
        import tensorflow as tf

        return tf.boolean_mask(x, x[:, 0] > 0)

    def compute_output_shape(self, shape):
        return shape


@on_tensorflow
def test_values_of_python_functions_are_captured(tmp_path):
    x = keras.Input((4,), name="x")
    joined = layers.Concatenate(name="fusion")([InNumPy(name="sines")(x), x])
    model = keras.Model(x, joined, name="model")
    assert layertap.plan(model, before="fusion").refused == ()
    saved = layertap.save(model, X, tmp_path / "v", before="fusion", batch_size=3)
    assert saved.missing == {}
    sines, same = saved.before("fusion").values()
    np.testing.assert_allclose(sines[:], np.sin(X), rtol=1e-6)
    np.testing.assert_array_equal(same[:], X)


@on_tensorflow
def test_a_value_with_rows_of_its_own_is_refused_by_a_real_batch():
    x = keras.Input((4,), name="x")
    some = Positive(name="some")(x)
    joined = layers.Concatenate(name="fusion")([some, some * 2.0])
    model = keras.Model(x, [joined, layers.Dense(2, name="dense")(x)], name="model")
    rows = int((X[:, 0] > 0).sum())
    words = f"fusion/in/0: it has {rows} rows in a batch of 10"
    with pytest.raises(RefusedError, match=words):
        layertap.capture(model, X, before="fusion")
    with pytest.warns(PartialWarning, match=f"some/out: it has {rows} rows"):
        values = layertap.capture(model, X, outputs="*")
    assert "dense/out" in values
    assert "some/out" in values.missing


class WithTable(keras.Model):
    """Puts rows of its own before those of the data."""

    def __init__(self):
        super().__init__(name="tables")
        self.table = self.add_weight(shape=(3, 4), name="table")
        self.left = layers.Dense(4, name="left")
        self.fusion = layers.Concatenate(axis=0, name="fusion")
        self.wide = layers.Concatenate(name="wide")

    def call(self, x):
        left = self.left(x)
        self.fusion([left, keras.ops.convert_to_tensor(self.table)])
        return self.wide([left, x])


@pytest.fixture
def model():
    model = WithTable()
    model(X)
    return model


def test_what_is_named_is_complete_or_refused(model, tmp_path):
    words = r"'fusion' is not complete.*fusion/in/1: its shape"
    for named in ("fusion", model.fusion, ["wide", "fusion"]):
        with pytest.raises(RefusedError, match=words):
            layertap.plan(model, like=X, before=named)
        with pytest.raises(RefusedError, match=words):
            layertap.save(model, X, tmp_path / "v", before=named)
    assert not (tmp_path / "v").exists()


def test_a_glob_takes_what_it_can_and_names_the_rest(model, tmp_path):
    with pytest.warns(PartialWarning, match=r"fusion/in/1: its shape"):
        saved = layertap.save(model, X, tmp_path / "v")
    assert list(saved.missing) == ["fusion/in/1"]
    assert "does not begin with one row" in saved.missing["fusion/in/1"]
    kernel, bias = model.left.get_weights()
    with pytest.raises(RefusedError, match=r"not complete.*partial=True"):
        saved.before("fusion")
    (left,) = saved.before("fusion", partial=True).values()
    np.testing.assert_allclose(left[:], X @ kernel + bias, rtol=1e-5, atol=1e-6)
    assert len(saved.before("wide")) == 2
    with pytest.raises(RefusedError, match=r"not complete.*'fusion\*'"):
        saved.dataset("fusion")
    report = layertap.verify(saved)
    assert report
    assert list(report.missing) == ["fusion/in/1"]
    assert "fusion/in/1 is missing" in str(report)


def test_a_layer_stands_for_its_name(model):
    assert layertap.plan(model, like=X, before=model.wide).joins[0].path == "wide"
    assert layertap.capture(model, X, outputs=model.left).keys() == {"left/out"}
    with pytest.raises(OptionError, match=r"Expected a glob of names, or a layer"):
        layertap.plan(model, like=X, before=3)


def of_four():
    x = keras.Input(batch_shape=(4, 3, 2), name="x")
    out = layers.LSTM(5, stateful=True, name="lstm")(x)
    joined = layers.Concatenate(name="fusion")([out, layers.Flatten(name="flat")(x)])
    return keras.Model(x, layers.Dense(1, name="head")(joined), name="four")


def test_a_declared_batch_size_is_that_of_the_batches(tmp_path):
    keras.utils.set_random_seed(0)
    model, x = of_four(), np.random.default_rng(0).normal(size=(8, 3, 2))
    x = x.astype("float32")
    (join,) = layertap.plan(model).joins
    assert [branch.shape for branch in join.branches] == [(None, 5), (None, 6)]
    saved = layertap.save(model, x, tmp_path / "v")
    assert saved.identity["batch size"] == 4
    np.testing.assert_array_equal(saved["fusion/in/1"][:], x.reshape(8, 6))
    for start in (0, 4):
        model.get_layer("lstm").reset_states()
        rows = slice(start, start + 4)
        expected = model.get_layer("lstm")(x[rows])
        np.testing.assert_allclose(
            saved["fusion/in/0"][rows],
            keras.ops.convert_to_numpy(expected),
            rtol=1e-5,
            atol=1e-6,
        )
    model.get_layer("lstm").reset_states()
    assert layertap.verify(saved, model, x)


def test_other_numbers_of_rows_than_the_declared_are_refused(tmp_path):
    model, x = of_four(), np.zeros((10, 3, 2), "float32")
    for data, options in ((x, {}), (x[:8], {"batch_size": 2})):
        with pytest.raises(DataError, match=r"a multiple of 4 rows"):
            layertap.save(model, data, tmp_path / "v", **options)
    with pytest.raises(DataError, match=r"from row 4 on.*Expected 4.*Received 2"):
        layertap.save(model, iter([x[:4], x[:2]]), tmp_path / "v")
    with pytest.raises(DataError, match=r"from row 0 on.*Expected 4.*Received 10"):
        layertap.capture(model, iter([x]))


def test_a_sequential_accepts_other_numbers_of_rows_than_it_was_built_with():
    model = keras.Sequential(
        [layers.Dense(3, name="dense"), layers.Dense(2, name="head")]
    )
    model(X[:6])
    values = layertap.capture(model, X, outputs="dense", batch_size=4)
    kernel, bias = model.layers[0].get_weights()
    np.testing.assert_allclose(
        values["dense/out"], X @ kernel + bias, rtol=1e-5, atol=1e-6
    )
    assert model.inputs[0].shape[0] == 6


def test_a_model_of_a_fixed_batch_is_split():
    model = of_four()
    stem, head = layertap.split(model, before="fusion")
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
    expected = model.predict(x, batch_size=4, verbose=0)
    model.get_layer("lstm").reset_states()
    branches = stem.predict(x, batch_size=4, verbose=0)
    actual = head.predict(branches, batch_size=4, verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@on_tensorflow
def test_a_plan_that_needed_a_batch_is_made_again_for_other_data():
    import tensorflow as tf

    x = keras.Input((3,))
    kept = keras.layers.Lambda(
        lambda x: tf.boolean_mask(x, x[:, 0] > 0), output_shape=(3,)
    )(x)
    joined = keras.layers.Concatenate(name="fusion")([kept, 2 * kept])
    good = keras.layers.Concatenate(name="good")([x, 2 * x])
    model = keras.Model(x, [joined, good])
    data = np.ones((4, 3), "float32")
    assert len(layertap.capture(model, data)) == 4
    data[1] = -1
    assert list(layertap.capture(model, data)) == ["good/in/0", "good/in/1"]
