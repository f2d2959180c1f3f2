"""Models that Keras compiles on TensorFlow alone, since a layer needs values."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import layertap
from layertap.errors import LayertapError

pytestmark = pytest.mark.every_backend

ON = keras.backend.backend()
IDS = np.array([[3], [7], [0], [5], [3]], "int32")
OTHER = np.array([[1], [2], [2], [0], [9]], "int32")
# In the vocabulary 3, 5, 7; 0 is unknown.
PLACES = [1, 3, 0, 2, 1]


def hashed(x: np.ndarray, bins: int) -> np.ndarray:
    """Returns the bins of integers, by TensorFlow alone."""
    return tf.strings.to_hash_bucket_fast(tf.as_string(x), bins).numpy()


def crossed() -> np.ndarray:
    """Returns the bins of pairs of integers, by TensorFlow alone."""
    columns = [tf.constant(column, "int64") for column in (IDS, OTHER)]
    pairs = tf.sparse.cross_hashed(columns, 5)
    return tf.sparse.to_dense(pairs).numpy()


class Logarithm(layers.Layer):
    """A user's layer, written with NumPy."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        if ON == "tensorflow":
            return keras.ops.log1p(x)
        return keras.ops.convert_to_tensor(np.log1p(keras.ops.convert_to_numpy(x)))


VOCABULARY = [3, 5, 7]
LAYERS = {
    "lookup": (
        lambda: layers.IntegerLookup(vocabulary=VOCABULARY),
        np.array(PLACES)[:, None],
    ),
    "lookup of one hot": (
        lambda: layers.IntegerLookup(vocabulary=VOCABULARY, output_mode="one_hot"),
        np.eye(4)[PLACES],
    ),
    "lookup without unknown": (
        lambda: layers.IntegerLookup(
            vocabulary=[7, 0, 5, 3], num_oov_indices=0, output_mode="multi_hot"
        ),
        np.eye(4)[[3, 0, 1, 2, 3]],
    ),
    "hashing": (lambda: layers.Hashing(4), hashed(IDS, 4)),
    "hashing of one hot": (
        lambda: layers.Hashing(4, output_mode="one_hot"),
        np.eye(4)[hashed(IDS, 4)[:, 0]],
    ),
    "logarithm": (Logarithm, np.log1p(IDS.astype("float32"))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_needs_values(name, tmp_path):
    make, expected = LAYERS[name]
    x = keras.Input((1,), dtype="int32", name="x")
    cast = keras.ops.cast(x, "float32") if make is Logarithm else x
    branch = layers.Dense(3, name="dense")(x)
    joined = layers.Concatenate(name="fusion")([make()(cast), branch])
    model = keras.Model(x, layers.Dense(1, name="head")(joined))
    saved = layertap.save(model, IDS, tmp_path / "v.zarr", batch_size=2)
    np.testing.assert_allclose(saved["fusion/in/0"][:], expected, rtol=1e-6)
    assert saved.plan == layertap.plan(model, like=IDS)
    assert layertap.verify(saved, model, IDS)


# Keras' own: of `HashedCrossing` on JAX, and of the inputs of a `FeatureSpace`.
of_keras = [
    pytest.mark.filterwarnings("ignore:(.|\\n)*Explicitly requested dtype int64"),
    pytest.mark.filterwarnings("ignore:(.|\\n)*structure of `inputs` doesn't match"),
]


# Its outputs can't be inferred there yet, so that the model is refused.
without_crossing = pytest.mark.skipif(
    ON == "jax" and keras.__version__.startswith("3.8."),
    reason="with Keras 3.8 on JAX, a HashedCrossing is refused",
)


@without_crossing
@of_keras[0]
def test_a_cross_of_two_columns():
    a, b = (keras.Input((1,), dtype="int32", name=name) for name in "ab")
    cross = layers.HashedCrossing(5, name="cross")((a, b))
    one_hot = layers.HashedCrossing(5, output_mode="one_hot", name="one_hot")((a, b))
    joined = layers.Concatenate(name="fusion")([cross, one_hot])
    values = layertap.capture(keras.Model([a, b], joined), [IDS, OTHER])
    np.testing.assert_array_equal(values["fusion/in/0"], crossed())
    np.testing.assert_array_equal(values["fusion/in/1"], np.eye(5)[crossed()[:, 0]])


@without_crossing
@of_keras[0]
@of_keras[1]
def test_features_are_joined_by_default(tmp_path):
    kinds = {
        "id": "integer_categorical",
        "other": "integer_hashed",
        "size": "float_normalized",
        "age": "float_discretized",
    }
    sizes = np.array([1, 2, 3, 4, 5], "float32")
    columns = {"id": IDS[:, 0], "other": OTHER[:, 0], "size": sizes, "age": sizes}
    if ON == "tensorflow":
        kinds["city"] = "string_categorical"
        columns["city"] = np.array(["a", "b", "b", "c", "a"])
    space = keras.utils.FeatureSpace(kinds, crosses=[("id", "other")])
    # Older releases of Keras adapt to nothing else.
    space.adapt(tf.data.Dataset.from_tensor_slices(columns))
    encoded = space.get_encoded_features()
    model = keras.Model(space.get_inputs(), layers.Dense(1, name="head")(encoded))
    saved = layertap.save(model, columns, tmp_path / "v.zarr")
    (join,) = saved.plan.joins
    branches = [saved[name][:] for name in join.addresses]
    # Keras encodes columns without a model, too.
    expected = keras.ops.convert_to_numpy(space(columns))
    np.testing.assert_allclose(np.concatenate(branches, 1), expected, rtol=1e-6)
    stem, head = layertap.split(model)
    # Keras' `predict` takes strings as tensors only.
    data = {name: column[:, None] for name, column in columns.items()}
    if ON == "tensorflow":
        data["city"] = tf.constant(data["city"])
    np.testing.assert_array_equal(
        head.predict(stem.predict(data, verbose=0), verbose=0),
        model.predict(data, verbose=0),
    )


@pytest.mark.skipif(ON != "jax", reason="Only JAX compiles what it joins")
def test_a_join_with_jax_itself_is_refused_where_nothing_is_compiled():
    import jax.numpy as jnp

    class Joins(layers.Layer):
        def call(self, inputs):
            return jnp.concatenate(inputs, axis=1)

        def compute_output_shape(self, shapes):
            return (shapes[0][0], 4)

    x = keras.Input((1,), dtype="int32", name="x")
    known = layers.IntegerLookup(vocabulary=VOCABULARY, name="known")(x)
    joined = layers.Concatenate(name="fusion")([known, x])
    model = keras.Model(x, Joins(name="joins")([joined, joined]))
    with pytest.raises(LayertapError, match=r"JAX itself.*`keras.ops` it could"):
        layertap.capture(model, IDS, before="joins/jnp.concatenate")
    values = layertap.capture(model, IDS, before="fusion")
    np.testing.assert_array_equal(values["fusion/in/0"][:, 0], PLACES)
