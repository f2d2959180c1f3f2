"""`layertap.keract`: gradients of the loss of a batch, by keract and by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap import keract

pytestmark = pytest.mark.every_backend

ROWS = 5


def drawn(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in shapes]


*WEIGHTS, X, Y = drawn(0, (3, 4), (4,), (4, 2), (2,), (ROWS, 3), (ROWS, 2))
WEIGHTS = [weight.astype("float32") for weight in WEIGHTS]

# As keract 4.5.2 computed them, on tf_keras 2.21 in graph mode.
OF_ACTIVATIONS = {
    "a": [
        [0.083526, -0.466695, -0.704225, -0.268687],
        [-0.014365, -0.293416, -0.549293, -0.297141],
        [-0.059387, -0.324030, -0.675941, -0.411584],
        [0.208840, -0.695126, -0.914414, -0.238333],
        [-0.159684, 0.532678, 0.701279, 0.183309],
    ],
    "o": [
        [0.138471, -0.502338],
        [0.246532, -0.378792],
        [0.376038, -0.459293],
        [0.004918, -0.668720],
        [-0.004606, 0.512774],
    ],
}
OF_WEIGHTS = {
    "a/kernel:0": [
        [-0.009227, 0.153695, 0.073237, 0.147314],
        [-0.035842, 1.010704, -0.036696, 0.068730],
        [0.002744, 0.212700, -0.123841, -0.197073],
    ],
    "a/bias:0": [0.020982, -1.588156, -0.471868, -0.408074],
    "o/kernel:0": [
        [-0.739511, 1.399286],
        [-0.163484, 0.911705],
        [-0.634926, 2.320877],
        [-0.463973, 1.826461],
    ],
    "o/bias:0": [0.761353, -1.496370],
}


def network(**compiled):
    i1 = keras.Input((3,), name="i1")
    x = layers.Dense(4, activation="tanh", name="a")(i1)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Dense(2, kernel_regularizer="l2", name="o")(x)
    model = keras.Model(i1, x, name="network")
    model.compile(**{"loss": "mse", "optimizer": "adam"} | compiled)
    model.set_weights(WEIGHTS)
    return model


def close(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-6)
        assert found[name].dtype == np.float32
        assert found[name].flags.writeable


def test_those_of_activations_are_those_of_keract():
    found = keract.get_gradients_of_activations(network(), X, Y)
    # Nothing is dropped at inference.
    a, o = OF_ACTIVATIONS["a"], OF_ACTIVATIONS["o"]
    close(found, {"a": a, "drop": a, "o": o})
    found = keract.get_gradients_of_activations(network(), X, Y, "o", "full")
    close(found, {"o:0": OF_ACTIVATIONS["o"]})


def test_those_of_weights_are_those_of_keract():
    close(keract.get_gradients_of_trainable_weights(network(), X, Y), OF_WEIGHTS)


def test_the_reduction_of_the_loss_decides_on_the_scale():
    model = network(loss=keras.losses.MeanSquaredError(reduction="sum"))
    found = keract.get_gradients_of_activations(model, X, Y, layer_names=["a", "o"])
    # The sum over the rows, not their mean.
    close(found, {n: ROWS * np.array(g) for n, g in OF_ACTIVATIONS.items()})


def test_a_loss_over_all_rows_is_not_that_of_each_row():
    def spread(labels, outputs):
        return ops.max(ops.abs(outputs - labels))

    model = network(loss=spread)
    found = keract.get_gradients_of_activations(model, X, Y, layer_names="o")["o"]
    miss = keract.get_activations(model, X, layer_names="o")["o"] - Y
    expected = np.where(np.abs(miss) == np.abs(miss).max(), np.sign(miss), 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_labels_that_do_not_fit_are_an_error_of_their_rows():
    with pytest.raises(layertap.DataError, match="rows"):
        keract.get_gradients_of_trainable_weights(network(), X, Y[1:])


class Squared(layers.Layer):
    """Adds the squares of its inputs to the loss."""

    def call(self, x):
        self.add_loss(0.1 * ops.sum(x**2))
        return x


def two_outputs():
    i1 = keras.Input((4,), name="i1")
    x = layers.Dense(4, name="a")(i1)
    one = layers.Dense(1, use_bias=False, name="one")(Squared(name="squared")(x))
    other = layers.Dense(2, use_bias=False, name="other")(x)
    return keras.Model(i1, [one, other], name="two")


def test_added_losses_and_the_weights_of_losses_count():
    model = two_outputs()
    model.compile(loss=["mse", "mae"], loss_weights=[1.0, 3.0])
    x, one, other = drawn(1, (6, 4), (6, 1), (6, 2))
    found = keract.get_gradients_of_activations(
        model, x, [one, other], ["a", "squared"]
    )
    a = keract.get_activations(model, x, layer_names="a")["a"]
    first, second = (model.get_layer(n).get_weights()[0] for n in ("one", "other"))
    of_one = 2 * (a @ first - one) / 6 @ first.T
    of_other = 3 * np.sign(a @ second - other) / 12 @ second.T
    close(found, {"a": of_one + of_other + 0.2 * a, "squared": of_one})


def test_a_loss_that_layers_add_is_enough():
    model = two_outputs()
    model.compile("adam")
    (x,) = drawn(1, (6, 4))
    with pytest.warns(layertap.PartialWarning, match="other: no differentiable way"):
        found = keract.get_gradients_of_activations(model, x, None)
    a = keract.get_activations(model, x, layer_names="a")["a"]
    close(found, {"a": 0.2 * a})


def test_the_model_stays_as_it_is():
    model = two_outputs()
    model.compile(loss="mse", metrics=[["mae"], ["mae"]])
    x, one, other = drawn(1, (6, 4), (6, 1), (6, 2))
    keract.get_gradients_of_activations(model, x, [one, other])
    # Keras counts each loss of several, from the first call of the loss on.
    fresh = [float(ops.convert_to_numpy(v)) for v in model.metrics_variables]
    assert fresh == [0.0] * len(fresh)
    model.fit(x, [one, other], verbose=0)
    state = [
        *model.get_weights(),
        *map(np.asarray, model.get_metrics_result().values()),
    ]
    counted = [np.array(ops.convert_to_numpy(v)) for v in model.metrics_variables]
    keract.get_gradients_of_activations(model, x, [one, other])
    keract.get_gradients_of_trainable_weights(model, x, [one, other])
    later = [
        *model.get_weights(),
        *map(np.asarray, model.get_metrics_result().values()),
    ]
    again = [np.array(ops.convert_to_numpy(v)) for v in model.metrics_variables]
    assert len(counted) > 4
    for before, after in zip(state + counted, later + again, strict=True):
        np.testing.assert_array_equal(before, after)


class Cut(layers.Layer):
    """Lets no gradient pass."""

    def call(self, x):
        return ops.stop_gradient(x)


def cut():
    i1 = keras.Input((3,), name="i1")
    behind = Cut(name="cut")(layers.Dense(2, name="behind")(i1))
    ahead = layers.Dense(2, name="ahead")(i1)
    model = keras.Model(i1, layers.Add(name="sum")([behind, ahead]), name="cut_model")
    model.compile(loss="mse")
    return model


def test_a_layer_without_gradient_is_named_or_refused():
    model = cut()
    x, y = drawn(2, (4, 3), (4, 2))
    with pytest.warns(layertap.PartialWarning, match="behind: no differentiable way"):
        found = keract.get_gradients_of_activations(model, x, y)
    output = keract.get_activations(model, x, layer_names="sum")["sum"]
    expected = 2 * (output - y) / 8
    close(found, dict.fromkeys(["cut", "ahead", "sum"], expected))
    with pytest.raises(layertap.RefusedError, match="behind: no differentiable way"):
        keract.get_gradients_of_activations(model, x, y, layer_names="behind")
    with pytest.warns(layertap.PartialWarning, match="behind/kernel:0"):
        found = keract.get_gradients_of_trainable_weights(model, x, y)
    close(found, {"ahead/kernel:0": x.T @ expected, "ahead/bias:0": expected.sum(0)})


def test_a_shared_layer_has_a_gradient_for_each_call():
    one, other = keras.Input((3,), name="i1"), keras.Input((3,), name="i2")
    shared = layers.Dense(2, use_bias=False, name="shared")
    model = keras.Model(
        [one, other], layers.Subtract(name="less")([shared(one), shared(other)])
    )
    model.compile(loss="mse")
    x1, x2, y = drawn(3, (4, 3), (4, 3), (4, 2))
    found = keract.get_gradients_of_activations(model, [x1, x2], y, "shared")
    (kernel,) = model.get_weights()
    expected = 2 * ((x1 - x2) @ kernel - y) / 8
    close(found, {"shared": expected, "shared@2": -expected})
    found = keract.get_gradients_of_trainable_weights(model, [x1, x2], y)
    close(found, {"shared/kernel:0": (x1 - x2).T @ expected})


def test_outputs_without_a_gradient_are_none():
    i1 = keras.Input((2, 3), name="i1")
    _, state, _ = layers.LSTM(
        2, return_sequences=True, return_state=True, name="lstm", activation="linear"
    )(i1)
    model = keras.Model(i1, layers.Rescaling(3.0, name="thrice")(state))
    model.compile(loss="mse")
    x, y = drawn(4, (4, 2, 3), (4, 2))
    sequence, found, memory = keract.get_gradients_of_activations(model, x, y)["lstm"]
    assert sequence is None
    assert memory is None
    state = keract.get_activations(model, x)["lstm"][1]
    np.testing.assert_allclose(found, 3 * 2 * (3 * state - y) / 8, rtol=1e-4)


def test_weights_of_one_path_have_keys_of_their_own():
    start = keras.Input((3,))
    inner = keras.Model(start, layers.Dense(2, use_bias=False, name="d")(start))
    i1 = keras.Input((3,), name="i1")
    model = keras.Model(i1, layers.Dense(1, use_bias=False, name="d")(inner(i1)))
    model.compile(loss="mse")
    x, y = drawn(5, (4, 3), (4, 1))
    found = keract.get_gradients_of_trainable_weights(model, x, y)
    assert list(found) == ["d/kernel:0", "d/kernel@2:0"]
    first, second = model.get_weights()
    miss = 2 * (x @ first @ second - y) / 4
    expected = [x.T @ miss @ second.T, (x @ first).T @ miss]
    for array, one in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(array, one, rtol=1e-4, atol=1e-6)


def test_frozen_weights_are_left_out():
    model = network()
    model.get_layer("a").trainable = False
    found = keract.get_gradients_of_trainable_weights(model, X, Y)
    close(found, {n: g for n, g in OF_WEIGHTS.items() if n.startswith("o")})


def test_batch_statistics_are_those_of_inference():
    i1 = keras.Input((3,), name="i1")
    model = keras.Model(i1, layers.BatchNormalization(name="norm", epsilon=0.0)(i1))
    model.compile(loss="mse")
    gamma, beta, mean, variance = np.arange(1.0, 13.0).reshape(4, 3)
    model.set_weights([gamma, beta, mean, variance])
    x, y = drawn(6, (4, 3), (4, 3))
    scaled = (x - mean) / np.sqrt(variance)
    miss = 2 * (gamma * scaled + beta - y) / 12
    close(
        keract.get_gradients_of_trainable_weights(model, x, y),
        {"norm/gamma:0": (miss * scaled).sum(0), "norm/beta:0": miss.sum(0)},
    )


def test_a_loss_that_is_not_one_number_is_an_error():
    model = network(loss=keras.losses.MeanSquaredError(reduction="none"))
    model.get_layer("o").kernel.regularizer = None
    with pytest.raises(layertap.OptionError, match="not one number"):
        keract.get_gradients_of_trainable_weights(model, X, Y)


def test_a_model_without_a_loss_is_an_error():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    for compiled in (False, True):
        if compiled:
            model.compile("adam")
        with pytest.raises(layertap.OptionError, match="has no loss"):
            keract.get_gradients_of_trainable_weights(model, X, Y)
        with pytest.raises(layertap.OptionError, match="has no loss"):
            keract.get_gradients_of_activations(model, X, Y)


class OfInference(keras.Model):
    """Has a loss of its own, which is another one in training."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return ops.sum(y_pred) * (2.0 if training else 3.0)


class WithoutTraining(keras.Model):
    """Has a loss of its own, as Keras 3.0 declared it."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return ops.sum(y_pred) * 3.0


@pytest.mark.parametrize("kind", [OfInference, WithoutTraining])
def test_a_model_may_have_a_loss_of_its_own(kind):
    i1 = keras.Input((3,), name="i1")
    model = kind(i1, layers.Dense(2, name="o")(i1))
    model.compile(loss="mse")
    found = keract.get_gradients_of_activations(model, X, Y)
    close(found, {"o": np.full((ROWS, 2), 3.0)})


def test_integers_have_no_gradient():
    i1 = keras.Input((3,), name="i1")
    cut = layers.Lambda(lambda x: ops.cast(x > 0, "int32"), name="cut")
    embedded = layers.Embedding(2, 2, name="embedded")
    model = keras.Model(i1, embedded(cut(i1)))
    model.compile(loss="mse")
    (y,) = drawn(7, (ROWS, 3, 2))
    with pytest.warns(layertap.PartialWarning, match="cut: no differentiable way"):
        found = keract.get_gradients_of_activations(model, X, y)
    (table,) = model.get_weights()
    chosen = (X > 0).astype(int)
    miss = 2 * (table[chosen] - y) / y.size
    close(found, {"embedded": miss})
    found = keract.get_gradients_of_trainable_weights(model, X, y)
    of_rows = np.stack([miss[chosen == 0].sum(0), miss[chosen == 1].sum(0)])
    close(found, {"embedded/embeddings:0": of_rows})


def test_random_numbers_are_the_same_at_each_call():
    i1 = keras.Input((64,), name="i1")
    x = layers.Dropout(0.5, name="drop")(i1, training=True)
    model = keras.Model(i1, layers.Dense(1, name="o")(x))
    model.compile(loss="mse")
    x, y = drawn(8, (4, 64), (4, 1))
    once = keract.get_gradients_of_trainable_weights(model, x, y)
    # It draws others.
    model.predict(x, verbose=0)
    close(keract.get_gradients_of_trainable_weights(model, x, y), once)
