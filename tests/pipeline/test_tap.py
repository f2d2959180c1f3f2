"""A tap is compiled once, and several threads, copies and callbacks may use it."""

import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import DataError, ModelError
from tests.support.tapped import X, assert_equal, close, expected, network

pytestmark = pytest.mark.every_backend


def test_a_tap_returns_the_branches_and_their_plan():
    model = network()
    tap = layertap.tap(model, before="fusion")
    assert tap.plan.addresses == layertap.plan(model, before="fusion").addresses
    assert repr(tap) == "<layertap.Tap of 'network': 3 values>"
    values = tap(X)
    assert isinstance(values, layertap.Values)
    close(values, expected(model))
    branches = dict(zip("abx", expected(model).values(), strict=True))
    close(values.before("fusion"), branches)


def test_tensors_are_those_of_the_backend():
    tensors = layertap.tap(network()).tensors(X)
    assert all(map(ops.is_tensor, tensors.values()))
    values = layertap.capture(network(), X)
    assert list(tensors) == list(values)


def test_tensors_of_aliases_are_there_too():
    x = keras.Input((6,))
    a, b = layers.Dense(2)(x), layers.Dense(3)(x)
    inner = layers.Concatenate(name="inner")([a, b])
    outer = layers.Concatenate(name="outer")([inner, a])
    model = keras.Model(x, outer)
    tap = layertap.tap(model)
    assert tap.plan.recipes
    tensors = {n: ops.convert_to_numpy(t) for n, t in tap.tensors(X).items()}
    assert_equal(tensors, layertap.capture(model, X))


def test_any_structure_that_the_model_takes():
    inputs = {
        "left": keras.Input((6,), name="left"),
        "right": keras.Input((2,), name="right"),
    }
    joined = layers.Concatenate(name="fusion")([inputs["left"], inputs["right"]])
    model = keras.Model(inputs, joined)
    x = {"right": X[:, :2], "left": X}
    tap = layertap.tap(model)
    close(tap(x), {"fusion/in/0": X, "fusion/in/1": X[:, :2]})
    tensors = {name: ops.convert_to_tensor(array) for name, array in x.items()}
    close(tap(tensors), {"fusion/in/0": X, "fusion/in/1": X[:, :2]})


def test_labels_stay_with_the_values():
    labels, weights = np.arange(8), np.ones(8)
    values = layertap.tap(network())((X, labels, weights))
    labels += 1
    weights += 1
    np.testing.assert_array_equal(values.labels, np.arange(8))
    np.testing.assert_array_equal(values.sample_weight, np.ones(8))


def test_values_do_not_change_later():
    model, x = network(), X.copy()
    tap = layertap.tap(model)
    values = tap(x)
    kept = {name: array.copy() for name, array in values.items()}
    x[:] = 0
    tap(x)
    assert_equal(values, kept)


def test_captured_values_are_the_callers():
    values = layertap.capture(network(), X)
    for array in values.values():
        array -= array.mean(axis=0)
        np.testing.assert_allclose(array.mean(axis=0), 0, atol=1e-6)


def test_a_batch_that_the_model_does_not_take_is_refused():
    with pytest.raises(DataError, match="has another shape than the model's"):
        layertap.tap(network())(X[:, :3])


def test_a_model_without_shapes_needs_data():
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(2, name="a")

        def call(self, x):
            return ops.concatenate([self.a(x), x], axis=-1)

    model = Late()
    with pytest.raises(ModelError, match="was never called"):
        layertap.tap(model)
    tap = layertap.tap(model, like=X)
    (name,) = {value.parts.path for value in tap.plan.values}
    w, c = model.a.get_weights()
    close(tap(X), {f"{name}/in/0": X @ w + c, f"{name}/in/1": X})


def test_open_sizes_are_those_of_each_batch():
    x = keras.Input((None, 6))
    model = keras.Model(x, layers.Concatenate(name="fusion")([layers.Dense(2)(x), x]))
    tap = layertap.tap(model)
    assert tap.plan.join("fusion").shape == (None, None, 8)
    for size in (3, 5):
        values = tap(np.ones((2, size, 6), "float32"))
        assert values["fusion/in/0"].shape == (2, size, 2)
        assert values.plan.join("fusion").shape == (None, size, 8)


def test_missing_values_are_warned_of():
    class Looped(layers.Layer):
        def call(self, x):
            return keras.ops.fori_loop(
                0, 2, lambda i, y: ops.concatenate([y[:, :3], x[:, :3]], axis=1), x
            )

    x = keras.Input((6,))
    model = keras.Model(x, layers.Concatenate(name="fusion")([Looped()(x), x]))
    with pytest.warns(layertap.PartialWarning, match="The others are"):
        layertap.tap(model)


def test_threads_share_a_tap(traces):
    model = network()
    tap = layertap.tap(model)
    batches = [X[:rows] * rows for rows in (8, 8, 4, 8, 4, 2) * 8]
    waiting = threading.Barrier(4)

    def use(batches):
        waiting.wait()
        return [tap(batch) for batch in batches]

    with ThreadPoolExecutor(4) as pool:
        parts = [batches[start::4] for start in range(4)]
        found = list(pool.map(use, parts))
    for part, values in zip(parts, found, strict=True):
        for batch, one in zip(part, values, strict=True):
            close(one, expected(model, batch))
    if keras.backend.backend() != "torch":
        assert len(traces) == (3 if keras.backend.backend() == "jax" else 1)


def test_a_tap_is_pickled_with_its_model():
    model = network()
    tap = layertap.tap(model, before="fusion", dtype="float16")
    values = tap(X)
    copy = pickle.loads(pickle.dumps(tap))
    assert_equal(copy(X), values)
    assert copy.plan == tap.plan
    copied = pickle.loads(pickle.dumps(model))
    assert_equal(layertap.capture(copied, X, dtype="float16"), values)


def test_a_model_and_what_was_made_of_it_are_freed_together():
    def used():
        model = network()
        layertap.tap(model)(X)
        layertap.capture(model, X)
        return weakref.ref(model)

    model = used()
    gc.collect()
    assert model() is None


def resident():
    """Returns the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.campaign(alone=True)
def test_memory_stays_flat_over_100_000_calls():
    tap = layertap.tap(network())
    for _ in range(2_000):
        tap(X)
    before = resident()
    for _ in range(100_000):
        tap(X)
    assert resident() - before < 2**22
