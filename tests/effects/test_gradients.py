"""Gradients of losses, outputs and functions, with respect to values.

Those of the zoo's models are in `tests/zoo/test_effects.py`.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import (
    OtherRunError,
)
from tests.support.bits import in_64_bits
from tests.support.classifier import (
    CLASSES,
    ROWS,
    WEIGHTS,
    X,
    branches,
    classifier,
    close,
    head_of,
    joined_of,
    joined_then,
)
from tests.support.native import Calling, concatenate

pytestmark = pytest.mark.every_backend


def probabilities(model, values):
    kernel, bias = head_of(model)
    powers = np.exp(joined_of(values) @ kernel + bias)
    return kernel, powers / powers.sum(axis=1, keepdims=True)


def test_those_of_the_loss_are_those_of_each_row_alone_with_its_weight():
    model = classifier()
    values = layertap.capture(model, (X, CLASSES, WEIGHTS), gradients="loss")
    kernel, shares = probabilities(model, values)
    expected = (shares - np.eye(3)[CLASSES]) @ kernel.T * WEIGHTS[:, None]
    close(values.gradients["fusion/in/0"], expected[:, :4])
    close(values.gradients["fusion/in/1"], expected[:, 4:])
    tap = layertap.tap(model)
    alone = tap.gradients((X[5:6], CLASSES[5:6], WEIGHTS[5:6]), of="loss")
    close(alone["fusion/in/1"], expected[5:6, 4:])
    unweighted = tap.gradients(X, of="loss", y=CLASSES)
    close(unweighted["fusion/in/1"], (expected / WEIGHTS[:, None])[:, 4:])


def test_a_loss_in_64_bits_takes_weights_of_32():
    with in_64_bits():
        x = keras.Input((6,), name="x")
        parts = [layers.Dense(n, dtype="float64") for n in (2, 3)]
        joined = layers.Concatenate(name="fusion", dtype="float64")(
            [p(x) for p in parts]
        )
        model = keras.Model(x, layers.Dense(1, name="head", dtype="float64")(joined))
        model.compile(loss="mse")
        y = np.zeros((ROWS, 1), "float32")
        values = layertap.capture(model, (X, y, WEIGHTS), gradients="loss")
        assert values.gradients["fusion/in/1"].dtype == "float64"
        kernel, bias = head_of(model)
        outputs = joined_of(values) @ kernel + bias
        expected = 2 * outputs * WEIGHTS[:, None] * kernel.T
        close(values.gradients["fusion/in/1"], expected[:, 2:])


@pytest.mark.parametrize("named", [False, True])
def test_the_loss_of_several_outputs_has_their_weights(named):
    x, parts = branches()
    joined = layers.Concatenate(name="fusion")(parts)
    one, two = (layers.Dense(n, name=f"out{n}")(joined) for n in (1, 2))
    outputs = {"out1": one, "out2": two} if named else [one, two]
    model = keras.Model(x, outputs)
    model.compile(
        loss={"out1": "mse", "out2": "mae"} if named else ["mse", "mae"],
        loss_weights={"out1": 3.0, "out2": 1.0} if named else [3.0, 1.0],
    )
    y1, y2 = np.zeros((ROWS, 1), "float32"), np.ones((ROWS, 2), "float32")
    y = {"out1": y1, "out2": y2} if named else [y1, y2]
    values = layertap.capture(model, (X, y), gradients="loss")
    joined = joined_of(values)
    (k1, b1), (k2, b2) = head_of(model, "out1"), head_of(model, "out2")
    squared = 3 * 2 * (joined @ k1 + b1) @ k1.T
    absolute = np.sign(joined @ k2 + b2 - 1) @ k2.T / 2
    close(values.gradients["fusion/in/0"], (squared + absolute)[:, :4])


def test_those_of_an_output_and_of_a_function():
    model = classifier()
    tap = layertap.tap(model)
    kernel, shares = probabilities(model, tap(X))
    change = shares[:, 2:] * (np.eye(3)[2] - shares) @ kernel.T
    close(tap.gradients(X, of=2)["fusion/in/0"], change[:, :4])
    close(tap.gradients(X, of=np.int64(2))["fusion/in/0"], change[:, :4])
    squares = tap.gradients(X, of=lambda outputs: outputs[:, 2] ** 2)
    close(squares["fusion/in/0"], (2 * shares[:, 2:] * change)[:, :4])
    assert list(squares.before("fusion")) == ["left", "right"]


def test_they_are_those_of_the_weights_of_the_moment():
    model = classifier()
    tap = layertap.tap(model)
    before = tap.gradients(X, of=0)["fusion/in/0"]
    model.get_layer("head").kernel.assign(2 * model.get_layer("head").kernel)
    model.get_layer("head").activation = keras.activations.linear
    after = tap.gradients(X, of=0)["fusion/in/0"]
    kernel, _ = head_of(model)
    assert not np.allclose(before, after)
    close(after, np.tile(kernel[:4, 0], (ROWS, 1)))


def by_hand(head, x):
    """The gradient of the second output as the backend's users write it."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            x = {name: tf.constant(array) for name, array in x.items()}
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(head(x)[:, 1])
            return tape.gradient(total, x)
        case "jax":
            import jax

            return jax.grad(lambda x: head(x)[:, 1].sum())(x)
    import torch

    x = {name: torch.tensor(array, requires_grad=True) for name, array in x.items()}
    head(x)[:, 1].sum().backward()
    return {name: tensor.grad for name, tensor in x.items()}


def test_they_equal_those_that_are_written_by_hand():
    model = classifier()
    values = layertap.capture(model, X, gradients=1)
    _, head = layertap.split(model)
    for name, gradient in by_hand(head, dict(values)).items():
        close(values.gradients[name], ops.convert_to_numpy(gradient), 1e-6)


def test_all_kinds_of_joins_have_them():
    keras.utils.set_random_seed(8)
    x, y = keras.Input((4, 6), name="x"), keras.Input((5, 6), name="y")
    attended = layers.Attention(name="attention")([x, y])
    heads = layers.MultiHeadAttention(2, 3, name="heads")(x, y)
    added = layers.Add(name="added")([attended, heads])
    product = layers.Multiply(name="product")([added, ops.tanh(x)])
    least = layers.Maximum(name="least")([product, x * 0.5])
    joined = layers.Concatenate(name="joined")([least, heads])
    dotted = layers.Dot(axes=2, name="dotted")([joined, ops.sin(joined)])
    model = keras.Model([x, y], layers.Dense(2)(layers.Flatten()(dotted)))
    random = np.random.default_rng(9)
    data = [random.normal(size=(3, n, 6)).astype("float32") for n in (4, 5)]
    kinds = ["attention", "add", "multiply", "maximum", "concatenate", "dot"]
    values = layertap.capture(model, data, joins=kinds, gradients=1)
    tap = layertap.tap(model, joins=kinds)
    assert {join.path for join in values.plan.joins} >= {"attention", "heads", "dotted"}
    assert values.gradients.keys() == set(values)
    for name, gradient in values.gradients.items():
        step = 1e-2 * random.normal(size=gradient.shape).astype("float32")
        ends = [
            tap.predict(data, replace={name: values[name] + sign * step})[:, 1]
            for sign in (1, -1)
        ]
        slopes = (2 * gradient * step).reshape(3, -1)
        missed = np.abs(ends[0] - ends[1] - slopes.sum(axis=1))
        # One row may cross the bend of the maximum.
        assert np.median(missed) < 5e-3 * np.abs(slopes).sum(axis=1).max(), name


def test_another_loss_is_differentiated_after_another_compile():
    model = classifier()
    tap = layertap.tap(model)
    data = X, np.eye(3, dtype="float32")[CLASSES]
    model.compile(loss="categorical_crossentropy")
    first = tap.gradients(data, of="loss")["fusion/in/0"]
    model.compile(loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.3))
    kernel, shares = probabilities(model, tap(X))
    expected = (shares - 0.7 * data[1] - 0.1) @ kernel.T
    second = tap.gradients(data, of="loss")["fusion/in/0"]
    close(second, expected[:, :4])
    assert not np.allclose(first, second)


def test_the_inference_mode_of_pytorch_hides_none():
    if keras.backend.backend() != "torch":
        pytest.skip("the inference mode is PyTorch's")
    import torch

    model = classifier()
    tap = layertap.tap(model)
    with torch.inference_mode():
        inside = tap.gradients(X, of=0)
    outside = layertap.tap(classifier()).gradients(X, of=0)
    for name, gradient in outside.items():
        assert np.array_equal(inside[name], gradient)


def test_native_joins_have_them():
    model = Calling(lambda model, x, *parts: concatenate(parts, 1))
    values = layertap.capture(model, X, gradients=lambda outputs: outputs[:, 0])
    assert len(values.gradients) == 2
    for name, gradient in values.gradients.items():
        change = gradient.sum(axis=1)
        direction = np.ones_like(values[name]) * 1e-2
        tap = layertap.tap(model, like=X)
        ends = [
            tap.predict(X, replace={name: values[name] + sign * direction})[:, 0]
            for sign in (1, -1)
        ]
        close(change, (ends[0] - ends[1]) / 2e-2, 2e-3)


def test_a_branch_of_two_joins_has_one_in_each_and_its_output_has_both():
    x, (left, right) = branches()
    first = layers.Concatenate(name="first")([left, right])
    second = layers.Concatenate(name="second")([right, left])
    out = layers.Dense(1, name="a")(first) + layers.Dense(1, name="b")(second)
    model = keras.Model(x, out)
    values = layertap.capture(
        model, X, before=["first", "second"], outputs="left", gradients=0
    )
    gradients = values.gradients
    a, _ = head_of(model, "a")
    b, _ = head_of(model, "b")
    close(gradients["first/in/0"], np.tile(a[:4, 0], (ROWS, 1)))
    close(gradients["second/in/1"], np.tile(b[3:, 0], (ROWS, 1)))
    close(gradients["left/out"], np.tile((a[:4] + b[3:])[:, 0], (ROWS, 1)))
    assert values.plan.recipes  # The values themselves are stored once.


# Stores.


def test_they_are_saved_resumed_and_verified(tmp_path):
    model = classifier()
    whole = layertap.save(
        model, (X, CLASSES), tmp_path / "a", gradients="loss", batch_size=8
    )
    captured = layertap.capture(model, (X, CLASSES), gradients="loss", batch_size=8)
    for name, gradient in captured.gradients.items():
        assert np.array_equal(whole.gradients[name][:], gradient)
        assert whole[f"fusion/in_gradient/{name[-1]}"].shape == gradient.shape
        mean = whole.statistics[f"fusion/in_gradient/{name[-1]}"].mean
        close(mean, gradient.mean(axis=0), 1e-5)

    def broken():
        for start in range(0, ROWS, 8):
            if start == 24:
                raise KeyboardInterrupt
            yield X[start : start + 8], CLASSES[start : start + 8]

    with pytest.raises(KeyboardInterrupt):
        layertap.save(model, broken(), tmp_path / "b", gradients="loss")
    again = layertap.save(
        model, (X, CLASSES), tmp_path / "b", gradients="loss", batch_size=8
    )
    assert again.complete
    for name in whole.plan.known:
        assert np.array_equal(again[name][:], whole[name][:])
    with pytest.raises(
        OtherRunError, match="gradients: the store has loss, this run 1"
    ):
        layertap.save(model, (X, CLASSES), tmp_path / "b", gradients=1, batch_size=8)
    report = layertap.verify(whole, model, (X, CLASSES))
    assert report, report
    assert {"gradient, finite differences"} < {check.what for check in report.checks}
    assert layertap.diff(whole, again)


def test_wrong_ones_are_found(tmp_path):
    @keras.saving.register_keras_serializable()
    class Straight(layers.Layer):
        """Rounds, and pretends not to (Bengio 2013, straight-through estimator)."""

        def call(self, x):
            return x + ops.stop_gradient(2 * x)

    model = joined_then(Straight())
    saved = layertap.save(model, X, tmp_path / "v", gradients=0)
    report = layertap.verify(saved, model, X)
    wrong = [check for check in report.checks if not check.ok]
    assert {check.what for check in wrong} == {"gradient, finite differences"}
    assert {check.address for check in wrong} == {
        "fusion/in_gradient/0",
        "fusion/in_gradient/1",
    }


def test_they_are_reduced_and_narrowed_as_values_are(tmp_path):
    keras.utils.set_random_seed(5)
    x = keras.Input((7, 7, 2), name="x")
    parts = [layers.Conv2D(n, 3, name=f"c{n}")(x) for n in (2, 3)]
    joined = layers.Concatenate(name="fusion")(parts)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(ops.tanh(joined))))
    maps = np.random.default_rng(2).normal(size=(9, 7, 7, 2)).astype("float32")
    exact = layertap.capture(model, maps, gradients=1).gradients
    saved = layertap.save(
        model, maps, tmp_path / "v", gradients=1, reduce="avg", dtype="float16"
    )
    for name, gradient in exact.items():
        stored = saved.gradients[name][:]
        assert stored.dtype == "float16"
        close(stored, gradient.mean(axis=(1, 2)), 1e-3)
    assert layertap.verify(saved, model, maps)


def test_padded_ones_have_zeros_too(tmp_path):
    x = keras.Input((None, 2), name="x")
    keras.utils.set_random_seed(6)
    parts = [layers.Conv1D(n, 1, name=f"c{n}")(x) for n in (2, 3)]
    joined = layers.Concatenate(name="fusion")(parts)
    pooled = layers.GlobalAveragePooling1D()(ops.tanh(joined))
    model = keras.Model(x, layers.Dense(1)(pooled))
    random = np.random.default_rng(3)
    data = [random.normal(size=(4, n, 2)).astype("float32") for n in (3, 5)]
    values = layertap.capture(model, iter(data), gradients=0, pad=5)
    gradient = values.gradients["fusion/in/0"]
    assert gradient.shape == (8, 5, 2)
    assert not gradient[:4, 3:].any()
    alone = layertap.capture(model, data[0], gradients=0)
    close(gradient[:4, :3], alone.gradients["fusion/in/0"])


def test_small_ones_are_not_lost_in_16_bits():
    def build(policy):
        keras.utils.set_random_seed(7)
        x = keras.Input((6,), name="x", dtype="float32")
        half = keras.DTypePolicy(policy)
        parts = [layers.Dense(n, name=f"d{n}", dtype=half)(x) for n in (3, 4)]
        joined = layers.Concatenate(name="fusion", dtype=half)(parts)
        out = layers.Dense(2, name="head", dtype=half)(joined)
        return keras.Model(x, layers.Rescaling(1e-6, dtype="float32")(out))

    half, full = build("mixed_float16"), build("float32")
    full.set_weights(half.get_weights())
    small = layertap.capture(half, X, gradients=0)
    exact = layertap.capture(full, X, gradients=0)
    assert small["fusion/in/0"].dtype == "float16"
    for name, gradient in small.gradients.items():
        assert gradient.dtype == "float32"
        close(gradient / 1e-6, exact.gradients[name] / 1e-6, 2e-3)


def test_large_ones_stay_finite_in_16_bits():
    x = keras.Input((6,), name="x", dtype="float32")
    half = keras.DTypePolicy("mixed_float16")
    parts = [layers.Dense(n, name=f"d{n}", dtype=half)(x) for n in (3, 4)]
    joined = layers.Concatenate(name="fusion", dtype=half)(parts)
    model = keras.Model(x, layers.Rescaling(1e3, dtype="float32")(joined))
    gradients = layertap.capture(model, X, gradients=0).gradients
    expected = np.zeros((ROWS, 3))
    expected[:, 0] = 1e3
    close(gradients["fusion/in/0"], expected, 1e-3)
