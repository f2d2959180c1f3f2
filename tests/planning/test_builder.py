"""Values that can't be captured are refused by name; the rest is captured."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import ListeningError, ModelError, PartialWarning
from tests.support import native
from tests.support.elsewhere import Towers
from tests.support.native import NAME, Calling, compiled, concatenate, data

pytestmark = pytest.mark.every_backend

X = data()


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


class Joined(Towers):
    """Towers whose join comes first, and can always be captured."""

    def __init__(self):
        super().__init__()
        self.fusion = layers.Concatenate(name="fusion")

    def start(self, x):
        return self.fusion([self.left(x), self.right(x)])


def refusals(model):
    """Captures the first join, and returns the reasons for refused values."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PartialWarning)
        values = layertap.capture(model, X, batch_size=2)
    assert bool(caught) == bool(values.missing)
    for index, expected in enumerate(model.truth(X)):
        close(values[f"fusion/in/{index}"], expected)
    plan = values.plan
    assert not {r.address for r in plan.refused} & set(plan.addresses)
    return {refused.address: refused.reason for refused in plan.refused}


class InACondition(Joined):
    def call(self, x):
        joined = self.start(x)
        return ops.cond(
            ops.sum(x) > 0,
            lambda: concatenate([joined, joined], 1),
            lambda: concatenate([joined, -joined], 1),
        )


def test_a_join_in_one_branch_of_a_condition():
    refused = refusals(InACondition())
    assert list(refused) == [f"{NAME}/in/0", f"{NAME}/in/1"]
    assert "cond`" in refused[f"{NAME}/in/0"]


class InALoop(Joined):
    def call(self, x):
        def turn(x):
            return concatenate([x[:, 1:], x[:, :1]], 1)

        return native.loop(turn, self.start(x))


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="a loop of PyTorch is one of Python"
)
def test_a_join_in_a_loop_of_the_backend():
    refused = refusals(InALoop())
    assert list(refused) == [f"{NAME}/in/0", f"{NAME}/in/1"]


class InKerasLoop(Joined):
    def call(self, x):
        def turn(i, x):
            return i + 1, ops.concatenate([x[:, 1:], x[:, :1]], axis=1)

        return ops.while_loop(lambda i, x: i < 3, turn, (0, self.start(x)))[1]


def test_a_join_in_a_loop_of_keras():
    refused = refusals(InKerasLoop())
    assert set(refused) == {"concatenate/in/0", "concatenate/in/1"}
    assert "while_loop" in refused["concatenate/in/0"]


class Cell(layers.Layer):
    """A recurrent cell that joins its input with its state."""

    def __init__(self):
        super().__init__(name="cell")
        self.state_size = 4
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build((None, shape[-1] + 4))

    def call(self, x, states):
        y = self.dense(concatenate([x, states[0]], -1))
        return y, [y]


class Recurrent(Joined):
    def __init__(self, unroll):
        super().__init__()
        self.recurrent = layers.RNN(Cell(), unroll=unroll, name="recurrent")

    def call(self, x):
        joined = self.start(x)
        return self.recurrent(ops.stack([joined, 2 * joined, 3 * joined], 1))


def test_a_join_inside_a_cell_is_refused_with_advice():
    refused = refusals(Recurrent(unroll=False))
    path = f"recurrent/cell/{NAME}"
    assert list(refused) == [f"{path}/in/0", f"{path}/in/1"]
    assert "unroll=True" in refused[f"{path}/in/0"]


def test_the_advice_lets_each_step_be_captured():
    model = Recurrent(unroll=True)
    values = layertap.capture(model, X)
    assert values.plan.refused == ()
    joined = np.concatenate(model.truth(X), 1)
    for step, part in enumerate(["cell", "cell@2", "cell@3"], 1):
        close(values[f"recurrent/{part}/{NAME}/in/0"], step * joined)


class Deciding(Joined):
    def call(self, x):
        joined = self.start(x)
        if ops.sum(joined) > 0:
            return concatenate([joined, joined], 1)
        return concatenate([joined, -joined], 1)


def test_values_after_python_decides_by_values_are_refused():
    refused = refusals(Deciding())
    assert list(refused) == ["towers"]
    assert "Python decides by values" in refused["towers"]
    assert "keras.ops.where" in refused["towers"]


class DecidingInside(layers.Layer):
    def call(self, x):
        return x if ops.sum(x) > 0 else -x


class DecidingDeep(Joined):
    def __init__(self):
        super().__init__()
        self.deciding = DecidingInside(name="deciding")

    def call(self, x):
        return concatenate([self.deciding(self.start(x)), x], 1)


def test_the_layer_that_decided_is_named():
    assert list(refusals(DecidingDeep())) == ["deciding"]


def test_an_error_is_raised_if_nothing_is_traced_before_python_decides():
    model = Calling(lambda model, x, left, right: left if left[0, 0] > 0 else right)
    with pytest.raises(ModelError, match="towers: "):
        layertap.plan(model, like=X)


class Inner(layers.Layer):
    def call(self, x):
        return concatenate([x, ops.concatenate([x, 2 * x], axis=1)], 1)


class Rematerialised(Joined):
    def __init__(self):
        super().__init__()
        with keras.RematScope(mode="full"):
            self.inner = Inner(name="inner")

    def call(self, x):
        return self.inner(self.start(x))


def test_values_of_a_rematerialised_layer_are_captured():
    model = Rematerialised()
    values = layertap.capture(model, X, batch_size=2)
    assert values.plan.refused == ()
    joined = np.concatenate(model.truth(X), 1)
    close(values["inner/concatenate/in/1"], 2 * joined)
    close(values[f"inner/{NAME}/in/1"], np.concatenate([joined, 2 * joined], 1))


class Checkpointed(Joined):
    """The function is rematerialised before it can be traced."""

    def __init__(self):
        super().__init__()
        self.inner = keras.remat(lambda x: ops.concatenate([x, x], axis=1))

    def call(self, x):
        return self.inner(self.start(x))


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="elsewhere, what is rematerialised has no trace of its own",
)
def test_a_function_that_was_rematerialised_before():
    refused = refusals(Checkpointed())
    assert set(refused) == {"concatenate/in/0", "concatenate/in/1"}
    assert "rematerialised" in refused["concatenate/in/0"]


class InACompiledCall(Joined):
    def __init__(self):
        super().__init__()
        self.compiled = compiled(self.start)

    def call(self, x):
        return concatenate([self.compiled(x), x], 1)


def test_layers_in_a_function_that_is_compiled_on_its_own():
    model = InACompiledCall()
    if keras.backend.backend() == "jax":
        with pytest.warns(PartialWarning, match="fusion/in/0"):
            values = layertap.capture(model, X)
        refused = {refused.address for refused in values.plan.refused}
        assert refused == {"fusion/in/0", "fusion/in/1"}
        close(values[f"{NAME}/in/0"], np.concatenate(model.truth(X), 1))
    else:
        assert refusals(model) == {}


class SeveralRows(Joined):
    def call(self, x):
        joined = self.start(x)
        halves = ops.reshape(x, (-1, 3))
        self.fusion([halves, halves])
        return joined


def test_a_value_with_several_rows_for_each_of_the_data():
    model = SeveralRows()
    before = ["fusion", "fusion@2"]
    values = layertap.capture(model, X, batch_size=2, before=before)
    assert not values.plan.refused
    for name in ("fusion@2/in/0", "fusion@2/in/1"):
        np.testing.assert_array_equal(values[name], X.reshape(-1, 2, 3))
    refused = {r.address: r.reason for r in layertap.plan(model).refused}
    assert set(refused) == {"fusion@2/in/0", "fusion@2/in/1"}
    assert "2 times the rows" in refused["fusion@2/in/0"]


class OfSoManyRows(Joined):
    """Only runs with a known number of rows, and has a constant with five."""

    def call(self, x):
        joined = self.start(x)
        constant = ops.convert_to_tensor(np.ones((len(X), 2), "float32"))
        table = ops.concatenate([constant, constant], axis=1)
        ones = ops.convert_to_tensor(np.ones([x.shape[0], 1], "float32"))
        return joined * ones + ops.sum(table)


def test_a_constant_with_as_many_rows_as_the_data_has_no_rows_of_data():
    model = OfSoManyRows()
    model(X)
    plan = layertap.plan(model, like=X)
    assert [join.path for join in plan.joins] == ["fusion"]
    assert [each.path for each in plan.ignored] == ["concatenate"]


if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    class Traced(Joined):
        @tf.function
        def call(self, x):
            joined = self.start(x)
            if tf.reduce_sum(joined) > 0:
                return tf.concat([joined, joined], 1)
            return tf.concat([joined, -joined], 1)

    def test_a_call_under_tf_function():
        model = Traced()
        model(X)
        for _ in range(2):
            # AutoGraph turns Python's condition into one of TensorFlow.
            assert set(refusals(model)) == {
                "tf.concat/in/0",
                "tf.concat/in/1",
            }

    @pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray])
    def test_values_that_python_reads(read):
        class Reading(Joined):
            def call(self, x):
                joined = self.start(x)
                return joined * float(read(joined).max())

        model = Reading()
        model(X)
        assert list(refusals(model)) == ["towers"]

    def test_an_error_of_the_models_own_is_no_decision():
        class Wrong(Joined):
            def call(self, x):
                return self.start(x) + self.numpy_offset

        model = Wrong()
        with pytest.raises(ListeningError, match="numpy_offset"):
            layertap.plan(model, like=X)
