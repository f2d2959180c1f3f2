"""A model is the same as long as nothing changes that its `call` reads."""

import collections
import contextvars
import dataclasses
import functools
import gc
import logging
import weakref

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.tracing.reuse.parts import MEMO
from layertap.tracing.reuse.snapshot import Snapshot
from tests.support.tapped import X, close, expected, network

pytestmark = pytest.mark.every_backend


class Config:
    """Numbers in an object of the user."""

    def __init__(self, factor):
        self.factor = factor

    def scaled(self, x):
        return x * self.factor


@dataclasses.dataclass(slots=True)
class Slots:
    factor: float


class Reading(layers.Layer):
    """Multiplies by what a function finds in it."""

    shared = 1.0

    def __init__(self, held, factor):
        super().__init__(name="reading")
        self.held, self.factor = held, factor
        self.loss = "mean"

    def call(self, x):
        return x * self.factor(self)


def replaced(layer):
    layer.held.clear()
    layer.held["max"] = True


def closure(cell):
    return lambda layer: cell[0]


FACTOR, FACTORS = 1.0, {"factor": 1.0}

# What a layer holds, how it makes a factor of it, and how that becomes 2.
HELD = {
    "attribute of an object": (
        lambda: Config(1.0),
        lambda layer: layer.held.factor,
        lambda layer: setattr(layer.held, "factor", 2.0),
    ),
    "attribute with the name of one of a model": (
        lambda: None,
        lambda layer: 2.0 if layer.loss == "sum" else 1.0,
        lambda layer: setattr(layer, "loss", "sum"),
    ),
    "key with the name of an attribute of a model": (
        lambda: {"loss": 1.0},
        lambda layer: layer.held["loss"],
        lambda layer: layer.held.update({"loss": 2.0}),
    ),
    "key": (
        lambda: {"mean": True},
        lambda layer: 2.0 if "max" in layer.held else 1.0,
        replaced,
    ),
    "array": (
        lambda: np.ones(6, "float32"),
        lambda layer: ops.convert_to_tensor(layer.held),
        lambda layer: np.multiply(layer.held, 2, out=layer.held),
    ),
    "slot": (
        lambda: Slots(1.0),
        lambda layer: layer.held.factor,
        lambda layer: setattr(layer.held, "factor", 2.0),
    ),
    "deque": (
        lambda: collections.deque([1.0]),
        lambda layer: layer.held[0],
        lambda layer: layer.held.appendleft(2.0),
    ),
    "many members": (
        lambda: [1.0] * 5000,
        lambda layer: layer.held[4999],
        lambda layer: layer.held.__setitem__(4999, 2.0),
    ),
    "object among many": (
        lambda: [Config(1.0) for _ in range(2000)],
        lambda layer: layer.held[1234].factor,
        lambda layer: setattr(layer.held[1234], "factor", 2.0),
    ),
    "value among many keys": (
        lambda: dict.fromkeys(range(2000), 1.0),
        lambda layer: layer.held[1234],
        lambda layer: layer.held.update({1234: 2.0}),
    ),
    "method of an object": (
        lambda: Config(1.0).scaled,
        lambda layer: layer.held(1.0),
        lambda layer: setattr(layer.held.__self__, "factor", 2.0),
    ),
    "argument of a partial function": (
        lambda: functools.partial(max, Config(1.0).scaled(1.0)),
        lambda layer: layer.held(0.5),
        lambda layer: setattr(layer, "held", functools.partial(max, 2.0)),
    ),
    "attribute of the class": (
        lambda: None,
        lambda layer: layer.shared,
        lambda layer: setattr(Reading, "shared", 2.0),
    ),
    "global in a container": (
        lambda: None,
        lambda layer: FACTORS["factor"],
        lambda layer: FACTORS.update(factor=2.0),
    ),
    "closure": (
        lambda: None,
        closure(cell := [1.0]),
        lambda layer: cell.__setitem__(0, 2.0),
    ),
    "global": (
        lambda: None,
        lambda layer: FACTOR,
        lambda layer: globals().update(FACTOR=2.0),
    ),
    "epsilon": (
        lambda: None,
        lambda layer: 2.0 if keras.config.epsilon() > 1e-4 else 1.0,
        lambda layer: keras.config.set_epsilon(1e-3),
    ),
}


@pytest.fixture
def restored(monkeypatch):
    """Restores what a change leaves behind."""
    monkeypatch.setattr(Reading, "shared", 1.0)
    monkeypatch.setitem(globals(), "FACTOR", 1.0)
    monkeypatch.setitem(FACTORS, "factor", 1.0)
    yield
    keras.config.set_epsilon(1e-7)


@pytest.mark.parametrize("what", HELD)
@pytest.mark.usefixtures("restored")
def test_what_a_call_reads_is_noticed(what, traces):
    hold, factor, change = HELD[what]
    layer = Reading(hold(), factor)
    x = keras.Input((6,))
    model = keras.Model(x, layers.Concatenate(name="fusion")([layer(x), x]))
    tap = layertap.tap(model)
    for _ in range(2):
        np.testing.assert_allclose(tap(X)["fusion/in/0"], X)
    if keras.backend.backend() != "torch":
        assert len(traces) == 1
    change(layer)
    np.testing.assert_allclose(tap(X)["fusion/in/0"], 2 * X)
    np.testing.assert_allclose(layertap.capture(model, X)["fusion/in/0"], 2 * X)


def test_an_object_that_reduces_is_noticed():
    config, model = Config(1.0), network()
    tap = layertap.tap(model, outputs="a", reduce=config.scaled)
    first = tap(X)["a/out"]
    config.factor = 2.0
    np.testing.assert_allclose(tap(X)["a/out"], 2 * first, rtol=1e-6)


def test_results_that_a_call_stores_are_no_change(traces):
    class Storing(layers.Layer):
        def call(self, x):
            self.last = ops.sum(x)
            return 2 * x

    x = keras.Input((6,))
    model = keras.Model(x, layers.Concatenate(name="fusion")([Storing()(x), x]))
    tap = layertap.tap(model)
    plan = tap.plan
    for _ in range(4):
        np.testing.assert_allclose(tap(X)["fusion/in/0"], 2 * X)
    if keras.backend.backend() != "torch":
        assert len(traces) == 1
    assert tap.plan is plan


def test_another_thread_that_changes_a_model_while_it_is_traced_is_noticed():
    config = Config(1.0)
    traced = []

    class Slow(layers.Layer):
        def call(self, x):
            # After the first layer was traced, as another thread may.
            if config.factor == 1.0 and traced:
                config.factor = 2.0
            return x

    first = Reading(config, lambda layer: layer.held.factor)
    x = keras.Input((6,))
    joined = layers.Concatenate(name="fusion")([Slow()(first(x)), x])
    model = keras.Model(x, joined)
    tap = layertap.tap(model)
    traced.append(True)
    tap(X)
    np.testing.assert_allclose(tap(X)["fusion/in/0"], 2 * X)


def test_what_the_model_holds_for_training_is_freed():
    model = network()
    model.compile("adam", "mse")
    layertap.capture(model, X)
    optimizer = weakref.ref(model.optimizer)
    model.compile("sgd", "mse")
    gc.collect()
    assert optimizer() is None


def test_a_dead_proxy_and_a_logger_are_no_matter(traces):
    model, parent = network(), Config(1.0)
    model.parent, model.log = weakref.proxy(parent), logging.getLogger("tap")
    layertap.capture(model, X)
    done = len(traces)
    del parent
    gc.collect()
    logging.getLogger("tap.more").debug("nothing")
    close(layertap.capture(model, X), expected(model))
    if keras.backend.backend() != "torch":
        assert len(traces) == done


def test_one_call_compares_the_model_once(monkeypatch, tmp_path):
    model = network()
    layertap.save(model, X, tmp_path / "first.zarr")
    compared, holds = [], Snapshot.holds

    def count(snapshot):
        compared.append(snapshot)
        return holds(snapshot)

    monkeypatch.setattr(Snapshot, "holds", count)
    layertap.save(model, X, tmp_path / "second.zarr")
    assert compared.count(vars(model)[MEMO].snapshot) == 1


def test_a_model_that_changes_itself_is_traced_until_it_stays_the_same(traces):
    class Counting(layers.Layer):
        calls = 0

        def call(self, x):
            self.calls = min(self.calls + 1, 3)
            return x * self.calls

    x = keras.Input((6,))
    counting = Counting()
    model = keras.Model(x, layers.Concatenate(name="fusion")([counting(x), x]))
    for _ in range(4):
        layertap.capture(model, X)
    done = len(traces)
    np.testing.assert_allclose(layertap.capture(model, X)["fusion/in/0"], 3 * X)
    if keras.backend.backend() != "torch":
        assert len(traces) == done


def held_factor():
    """A model that multiplies by the factor of a configuration, and that."""
    config = Config(1.0)
    reading = Reading(config, lambda layer: layer.held.factor)
    x = keras.Input((6,))
    joined = layers.Concatenate(name="fusion")([reading(x), x])
    return keras.Model(x, joined), config


def test_data_that_change_the_model_are_noticed(tmp_path):
    model, config = held_factor()
    layertap.save(model, X, tmp_path / "first.zarr")

    def batches():
        config.factor = 2.0
        yield X

    saved = layertap.save(model, batches(), tmp_path / "second.zarr")
    np.testing.assert_allclose(saved["fusion/in/0"][:], 2 * X)


def test_a_change_is_noticed_in_a_copy_of_the_context_of_a_call():
    contexts = []
    # Not the list, whose changes would count.
    note = contexts.append
    model, config = held_factor()

    class Copying(layers.Layer):
        def call(self, x):
            note(contextvars.copy_context())
            return x

    copying = keras.Model(model.input, Copying()(model.output))
    # Not of the call that made its graph.
    contexts.clear()
    layertap.capture(copying, X)
    for factor in (2.0, 3.0):
        config.factor = factor
        values = contexts[0].run(layertap.capture, copying, X)
        np.testing.assert_allclose(values["fusion/in/0"], factor * X)


def test_tensors_that_a_call_stored_are_freed():
    class Storing(layers.Layer):
        def call(self, x):
            self.last = 2 * x
            return self.last

    x = keras.Input((6,))
    storing = Storing()
    model = keras.Model(x, layers.Concatenate(name="fusion")([storing(x), x]))
    layertap.plan(model)
    surveyed = weakref.ref(storing.last)
    for _ in range(3):
        layertap.capture(model, X)
    gc.collect()
    assert surveyed() is None
