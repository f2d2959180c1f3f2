"""Values are those of the model as it is: a changed one is traced again."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import layertap
from tests.support.campaign import times
from tests.support.tapped import X, close, expected, network

pytestmark = pytest.mark.every_backend


def test_new_weights_need_no_trace(traces, tmp_path):
    model = network()
    model.compile("sgd", "mse")
    tap = layertap.tap(model)
    tap(X)
    layertap.capture(model, X)
    model.save_weights(tmp_path / "w.weights.h5")
    first = tap(X)["fusion/in/0"]
    done = len(traces)

    def doubled():
        return [2 * w for w in model.get_weights()]

    for change in (
        lambda: model.set_weights(doubled()),
        lambda: model.fit(X, np.ones((8, 1)), verbose=0),
        lambda: model.get_layer("a").kernel.assign_add(np.ones((6, 3))),
        lambda: model.compile("sgd", "mae", metrics=["mse"]),
        lambda: model.evaluate(X, np.ones((8, 1)), verbose=0),
        lambda: model.predict(X, verbose=0),
        lambda: model.load_weights(tmp_path / "w.weights.h5"),
    ):
        change()
        close(tap(X), expected(model))
        close(layertap.capture(model, X), expected(model))
    np.testing.assert_array_equal(tap(X)["fusion/in/0"], first)
    if keras.backend.backend() != "torch":
        # PyTorch runs eagerly until a graph is known to be right.
        assert len(traces) == done


def test_every_pass_of_a_capture_is_reused(traces):
    model = network()
    for _ in range(4):
        layertap.capture(model, X)
        layertap.capture(model, X[:3])
        layertap.tap(model)(X)
    sizes = 2 if keras.backend.backend() == "jax" else 1
    if keras.backend.backend() != "torch":
        assert len(traces) == sizes


def frozen(model):
    model.get_layer("a").trainable = not model.get_layer("a").trainable


def quantized(model):
    if model.get_layer("a").quantization_mode is None:
        model.get_layer("a").quantize("int8")


def with_lora(model):
    layer = model.get_layer("a")
    if not layer.lora_enabled and layer.quantization_mode is None:
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.full(layer.lora_kernel_b.shape, 0.5))


def other_policy(model):
    layer = model.get_layer("b")
    now = layer.dtype_policy.name
    layer.dtype_policy = "mixed_bfloat16" if now == "float32" else "float32"


def other_factor(model):
    model.get_layer("scaled").factor += 0.5


def other_activation(model):
    layer = model.get_layer("b")
    now = layer.activation
    other = keras.activations.relu
    layer.activation = keras.activations.tanh if now is other else other


def eagerly(model):
    model.run_eagerly = not model.run_eagerly


def other_weights(model):
    model.set_weights([w + 0.25 for w in model.get_weights()])


def trained(model):
    if model.get_layer("a").quantization_mode is None:
        model.compile("sgd", "mse")
        model.fit(X, np.ones((8, 1)), verbose=0)


CHANGES = (
    *(frozen, with_lora, other_policy, other_factor, other_activation, eagerly),
    *(other_weights, trained, quantized),
)


@pytest.mark.slow
@pytest.mark.campaign
@given(changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=4))
@settings(
    derandomize=True,
    max_examples=times(5, 60),
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)
def test_a_changed_model_is_traced_again(changes):
    model = network()
    tap = layertap.tap(model, outputs=["a", "b", "head"])
    tap(X)
    for change in changes:
        change(model)
        values, again = tap(X), layertap.capture(model, X, outputs=["a", "b", "head"])
        fresh = keras.Model(
            model.input, [model.get_layer(name).output for name in ("a", "b", "head")]
        )
        outputs = [np.asarray(ops.convert_to_numpy(y)) for y in fresh(X)]
        for name, output in zip(("a", "b", "head"), outputs, strict=True):
            for found in (values, again):
                array = np.asarray(found[f"{name}/out"], "float32")
                output = np.asarray(output, "float32")
                np.testing.assert_allclose(array, output, rtol=2e-2, atol=2e-2)


def test_a_layer_that_was_exchanged_or_added_is_noticed():
    class Block(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential([layers.Dense(2)])

        def call(self, x):
            return ops.concatenate([self.inner(x), x], axis=-1)

    model = Block()
    model(X)
    tap = layertap.tap(model)

    def shown():
        return tap(X)[tap.plan.addresses[0]]

    w, c = model.inner.get_weights()
    np.testing.assert_allclose(shown(), X @ w + c, atol=1e-5)
    model.inner.pop()
    model.inner.add(layers.Dense(2, use_bias=False))
    (w,) = model.inner.get_weights()
    np.testing.assert_allclose(shown(), X @ w, atol=1e-5)
    model.inner.add(layers.ReLU())
    np.testing.assert_allclose(shown(), np.maximum(X @ w, 0), atol=1e-5)


def test_a_variable_outside_of_the_model_is_read_at_each_call():
    outside = keras.Variable(np.ones(6, "float32"))

    class Outside(layers.Layer):
        def call(self, x):
            return x * held[0]

    held = (outside,)
    x = keras.Input((6,))
    model = keras.Model(x, layers.Concatenate(name="fusion")([Outside()(x), x]))
    tap = layertap.tap(model)
    for factor in (1, 2, 2, 3):
        outside.assign(np.full(6, factor, "float32"))
        np.testing.assert_allclose(tap(X)["fusion/in/0"], X * factor, rtol=1e-6)


def test_a_layer_that_reduces_has_the_weights_of_now(traces):
    model, smaller = network(), layers.Dense(2, use_bias=False)
    smaller.build((None, 3))
    tap = layertap.tap(model, outputs="a", reduce=smaller)
    tap(X)
    done = len(traces)
    np.testing.assert_array_equal(tap(X)["a/out"], tap(X)["a/out"])
    if keras.backend.backend() != "torch":
        assert len(traces) == done
    for factor in (1, 2):
        smaller.kernel.assign(np.full((3, 2), factor, "float32"))
        full = expected(model)["fusion/in/0"] @ np.full((3, 2), factor)
        np.testing.assert_allclose(tap(X)["a/out"], full, rtol=1e-4, atol=1e-5)


def test_a_function_that_reduces_has_the_numbers_of_now():
    model, factor = network(), [1.0]

    def scaled():
        return layertap.capture(model, X, outputs="a", reduce=reduce)["a/out"]

    def reduce(x):
        return x * factor[0]

    first = scaled()
    factor[0] = 3.0
    np.testing.assert_allclose(scaled(), 3 * first, rtol=1e-5)


def test_a_callback_sees_the_weights_of_its_step():
    model = network()
    model.compile("sgd", "mse")
    tap = layertap.tap(model)
    seen = []

    class Looking(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(tap(X)["fusion/in/0"])
            w, c = self.model.get_layer("a").get_weights()
            np.testing.assert_allclose(seen[-1], X @ w + c, rtol=1e-4, atol=1e-5)

    model.fit(X, np.ones((8, 1)), batch_size=2, verbose=0, callbacks=[Looking()])
    assert len(seen) == 4
    assert not np.array_equal(seen[0], seen[-1])
