"""Traces of every model of the zoo, and that the models are not changed."""

import threading

import keras
import numpy as np
import pytest

import layertap
from layertap.errors import PartialWarning
from layertap.inputs.feed import Feed
from layertap.pipeline.planned_pass import planned_pass
from layertap.tracing import hooks
from layertap.tracing.model_structure import input_specs
from tests.support.campaign import share, spread
from tests.zoo import CASES, Case

pytestmark = pytest.mark.every_backend

ROWS = 5


@pytest.fixture(params=spread(CASES), ids=lambda case: case.name, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> keras.Model:
    """One model for all tests of a case: none of them changes it."""
    return case.build()


def nodes(model: keras.Model) -> list[tuple[int, int]]:
    """Counts the nodes of every layer of a model, nested ones too."""
    return [
        (len(layer._inbound_nodes), len(layer._outbound_nodes))
        for layer in model._flatten_layers()
    ]


def test_the_plan_and_the_captured_branches_are_right(case, model):
    inputs = case.inputs(ROWS)
    plan = layertap.plan(model, like=inputs)
    assert {join.path: join.axis for join in plan.joins} == case.joins
    made_by = {value.address: value.made_by for value in plan.values}
    assert made_by | case.made_by == made_by

    values = layertap.capture(model, inputs, batch_size=2)
    truth = case.truth(model, inputs)
    assert set(values) == set(truth)
    for address, expected in truth.items():
        case.assert_close(values[address], expected)
    for value in plan.values:
        assert values[value.address].shape == (ROWS, *value.shape[1:])
        assert values[value.address].dtype.name == value.dtype


@pytest.mark.parametrize("chosen", share(6, CASES), ids=lambda case: case.name)
def test_the_model_is_not_changed(chosen):
    model, inputs = chosen.build(), chosen.inputs(ROWS)
    expected = model.predict(inputs, verbose=0)
    before = nodes(model), [keras.ops.convert_to_numpy(w) for w in model.weights]
    originals = [vars(owner)[name] for owner, name, _ in hooks.points()]

    layertap.capture(model, inputs)
    layertap.submodels(model, before=next(iter(chosen.joins)), like=inputs)

    assert nodes(model) == before[0]
    for weight, was in zip(model.weights, before[1], strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), was)
    assert [vars(owner)[name] for owner, name, _ in hooks.points()] == originals
    actual = model.predict(inputs, verbose=0)
    for one, other in zip(
        keras.tree.flatten(expected), keras.tree.flatten(actual), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def two_branches() -> keras.Model:
    x = keras.Input((3,), name="x")
    branches = [keras.layers.Dense(n, name=f"dense_{n}")(x) for n in (4, 5)]
    joined = keras.layers.Concatenate(name="fusion")(branches)
    return keras.Model(x, keras.layers.Dense(1, name="head")(joined))


class Late(keras.layers.Layer):
    """Counts how often it ran."""

    def __init__(self) -> None:
        super().__init__(name="late")
        self.ran = 0

    def call(self, x):
        self.ran += 1
        return x


def test_nothing_runs_after_the_last_wanted_value():
    late = Late()
    x = keras.Input((3,))
    joined = keras.layers.Concatenate(name="fusion")([x, keras.layers.Dense(2)(x)])
    model = keras.Model(x, late(joined))
    data = np.ones((2, 3), "float32")
    tap = planned_pass(model, layertap.plan(model))
    late.ran = 0
    values = tap(Feed(data, input_specs(model)).first())
    assert set(values) == {"fusion/in/0", "fusion/in/1"}
    assert late.ran == 0


def test_an_error_of_the_model_passes_through_and_removes_the_hooks():
    class Broken(keras.layers.Layer):
        broken = False

        def call(self, x):
            if self.broken:
                raise ZeroDivisionError("of the model")
            return x

    layer = Broken()
    x = keras.Input((3,))
    joined = keras.layers.Concatenate()([layer(x), x])
    model = keras.Model(x, joined)
    originals = [vars(owner)[name] for owner, name, _ in hooks.points()]
    layer.broken = True
    with pytest.raises(Exception, match="of the model"):
        layertap.capture(model, np.ones((2, 3), "float32"))
    assert [vars(owner)[name] for owner, name, _ in hooks.points()] == originals


def test_another_thread_is_not_traced():
    model = two_branches()
    other = two_branches()
    data = np.ones((2, 3), "float32")

    class Calls(keras.layers.Layer):
        """Runs the other model in another thread while it is called."""

        def call(self, x):
            thread = threading.Thread(target=lambda: outputs.append(other(data)))
            thread.start()
            thread.join()
            return x

    outputs: list[object] = []
    x = keras.Input((3,))
    joined = keras.layers.Concatenate(name="fusion")([Calls()(x), model(x)])
    values = layertap.capture(keras.Model(x, joined), data, before="fusion")
    np.testing.assert_array_equal(values["fusion/in/0"], data)
    assert outputs
    plan = layertap.plan(keras.Model(x, joined))
    assert [join.path for join in plan.joins] == [f"{model.name}/fusion", "fusion"]


def test_a_model_may_be_traced_while_another_is():
    inner = two_branches()

    class Plans(keras.layers.Layer):
        def call(self, x):
            seen.extend(layertap.plan(inner).addresses)
            return x

    seen: list[str] = []
    x = keras.Input((3,))
    joined = keras.layers.Concatenate(name="outer")([Plans()(x), x])
    plan = layertap.plan(keras.Model(x, joined))
    assert [join.path for join in plan.joins] == ["outer"]
    assert seen[:2] == ["fusion/in/0", "fusion/in/1"]


def test_values_inside_a_loop_are_refused_and_others_captured():
    class Cell(keras.layers.Layer):
        state_size = 4

        def __init__(self) -> None:
            super().__init__(name="cell")
            self.dense = keras.layers.Dense(4)

        def build(self, shape):
            self.dense.build((*shape[:-1], shape[-1] + 4))

        def call(self, x, states):
            state = self.dense(keras.ops.concatenate([x, states[0]], -1))
            return state, [state]

    x = keras.Input((6, 3), name="x")
    last = keras.layers.RNN(Cell(), name="rnn")(x)
    joined = keras.layers.Concatenate(name="fusion")([last, keras.layers.Flatten()(x)])
    model = keras.Model(x, joined)
    plan = layertap.plan(model)
    assert [branch.address for branch in plan.join("fusion").branches] == [
        "fusion/in/0",
        "fusion/in/1",
    ]
    assert {refused.address for refused in plan.refused} == {
        "rnn/cell/concatenate/in/0",
        "rnn/cell/concatenate/in/1",
    }
    assert all("unroll=True" in refused.reason for refused in plan.refused)
    data = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
    with pytest.warns(PartialWarning, match="rnn/cell/concatenate/in/0"):
        values = layertap.capture(model, data)
    np.testing.assert_allclose(
        np.concatenate(list(values.before("fusion").values()), 1),
        model.predict(data, verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )
