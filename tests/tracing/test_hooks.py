"""Joins that are easily traced wrong: a plan's addresses have the right values."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.tracing import hooks
from tests.support import native
from tests.support.elsewhere import Towers
from tests.support.native import NAME, Calling, compiled, concatenate, data

pytestmark = pytest.mark.every_backend

X = data(6)
BACKEND = keras.backend.backend()


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_joins_around_a_loop_keep_their_numbers():
    def turn(x):
        return concatenate([x[:, 1:], x[:, :1]], 1)

    def call(model, x, left, right):
        turned = native.loop(turn, left)
        first = concatenate([left, right], 1)
        concatenate([turned, right], 1)
        return concatenate([3 * left, first], 1)

    model = Calling(call)
    model(X)
    left, right = model.truth(X)
    plan = layertap.plan(model, like=X)
    whole = [join.path for join in plan.joins if join.whole and join.branches]
    turned = np.roll(left, -3, axis=1)
    truth = [
        [left, right],
        [turned, right],
        [3 * left, np.concatenate([left, right], 1)],
    ]
    if BACKEND == "torch":
        whole = whole[3:]  # In a Python loop, each turn has its own join.
    for path, branches in zip(whole, truth, strict=True):
        # Captured alone: a shift in numbers would show.
        values = layertap.capture(model, X, before=path, batch_size=4)
        for actual, expected in zip(values.values(), branches, strict=True):
            assert_close(actual, expected)


class Shared(Towers):
    """Calls a layer that joins, inside and outside a separately compiled function."""

    def __init__(self):
        super().__init__()
        self.fuse = Fuse(name="fuse")
        self.helper = compiled(lambda a: self.fuse([a, 2 * a]))

    def call(self, x):
        left = self.left(x)
        inside = self.helper(left)
        outside = self.fuse([10 * left, 20 * left])
        return concatenate([100 * left, inside, outside, self.right(x)], 1)


class Fuse(layers.Layer):
    def call(self, tensors):
        return concatenate(list(tensors), 1)


def test_a_compiled_function_that_was_traced_before_shifts_nothing():
    model = Shared()
    model(X)
    for _ in range(2):
        values = layertap.capture(model, X, batch_size=3)
        left, _ = model.truth(X)
        assert_close(values[f"{NAME}/in/0"], 100 * left)
        assert_close(values[f"fuse@2/{NAME}/in/1"], 20 * left)
        # This caches a trace of the function.
        model.predict(X, batch_size=3, verbose=0)


FORMS = {
    "a new axis": lambda a, b: (a[:, None, :3], ops.stack([b, b], 1)),
    "a reshape": lambda a, b: (ops.reshape(a[:, :2], (-1, 2, 1)), b[:, None, :]),
    "a broadcast": lambda a, b: (ops.broadcast_to(a[:, :1], ops.shape(b)), b),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("operator", ["operator.add", "operator.mul"])
def test_a_branch_has_the_shape_that_the_user_passed(form, operator):
    def call(model, x, left, right):
        a, b = FORMS[form](left, right)
        return a + b if operator == "operator.add" else a * b

    model = Calling(call)
    model(X)
    values = layertap.capture(model, X, joins="*", before=operator, batch_size=4)
    left, right = map(ops.convert_to_tensor, model.truth(X))
    for actual, expected in zip(values.values(), FORMS[form](left, right), strict=True):
        assert_close(actual, ops.convert_to_numpy(expected))


class Scales(layers.Layer):
    """Has keyword arguments with the names of internal parameters."""

    def call(self, x, *, original, layer, operation):
        return x * original * layer * operation


def test_keyword_arguments_of_a_call_may_have_any_name():
    x = keras.Input([6], name="x")
    scaled = Scales(name="scales")(x, original=2.0, layer=3.0, operation=5.0)
    model = keras.Model(x, layers.Concatenate(name="fusion")([scaled, x]))
    values = layertap.capture(model, X, batch_size=4)
    assert_close(values["fusion/in/0"], 30 * X)


def test_a_concatenation_of_one_tensor_is_not_a_join():
    def call(model, x, left, right):
        alone = concatenate([left], 1)
        return concatenate([alone, right], 1)

    (join,) = layertap.plan(Calling(call), like=X).joins
    assert join.path == NAME


def test_a_join_that_fails_is_not_in_the_plan():
    def call(model, x, left, right):
        try:
            ops.concatenate([left, right[:, :, None]], axis=1)
        except Exception:
            return ops.concatenate([left, right], axis=1)

    plan = layertap.plan(Calling(call), like=X)
    assert [len(join.branches) for join in plan.joins] == [2]
    assert plan.joins[0].shape == (None, 7)


def test_hooks_that_an_interrupted_pass_left_in_place_are_removed_by_the_next():
    def new():
        return Calling(lambda model, x, left, right: concatenate([left, right], 1))

    expected = layertap.capture(new(), X)
    installed = list(hooks._hooks)
    # A signal may come when only some are in place.
    for owner, name, _, wrapped in installed[::2]:
        setattr(owner, name, wrapped)
    values = layertap.capture(new(), X)
    assert list(values) == list(expected)
    for owner, name, original, _ in installed:
        assert vars(owner)[name] is original


def test_a_submodel_of_a_native_join_also_runs_eagerly():
    model = Calling(lambda model, x, left, right: concatenate([left, right], 1))
    model(X)
    submodels = layertap.submodels(model, like=X)
    for submodel, expected in zip(submodels.values(), model.truth(X), strict=True):
        assert_close(ops.convert_to_numpy(submodel(ops.convert_to_tensor(X))), expected)


if BACKEND == "torch":
    import torch
    from torch import nn

    def in_place(model, x, left, right):
        first = torch.nn.functional.relu(concatenate([left, right], 1), inplace=True)
        left += 1.0
        return concatenate([first, left], 1)

    def test_a_tensor_changed_in_place_is_another_value():
        model = Calling(in_place)
        values = layertap.capture(model, X, batch_size=4)
        left, right = model.truth(X)
        first = np.concatenate([left, right], 1)
        assert_close(values[f"{NAME}/in/0"], left)
        assert_close(values[f"{NAME}@2/in/0"], np.maximum(first, 0))
        assert_close(values[f"{NAME}@2/in/1"], left + 1)

    def test_a_model_that_changes_its_inputs_leaves_the_data_as_they_are():
        class Scaling(layers.Layer):
            def call(self, x):
                return x.div_(2)

        inputs = keras.Input([3])
        x = data(6)[:, :3]
        before = x.copy()
        output = layers.Concatenate(name="fusion")([Scaling()(inputs), inputs])
        values = layertap.capture(keras.Model(inputs, output), x, batch_size=2)
        assert np.array_equal(x, before)
        assert_close(values["fusion/in/0"], before / 2)

    def test_results_that_only_some_calls_store_are_no_change():
        class Sized(layers.Layer):
            """Makes its table again when the number of rows is another one."""

            table = None

            def call(self, x):
                if self.table is None or len(self.table) != len(x):
                    self.table = torch.ones((len(x), 1))
                return self.table * x

        x = data(5)
        inputs = keras.Input(x.shape[1:])
        model = keras.Model(
            inputs, layers.Concatenate(name="fusion")([Sized()(inputs), inputs])
        )
        tap = layertap.tap(model)
        tap(x)
        plan = tap.plan
        for rows in (4, 4, 3, 4, 4, 3):
            assert_close(tap(x[:rows])["fusion/in/0"], x[:rows])
        assert tap.plan is plan

    class Rectifying(layers.Layer):
        def call(self, tensors):
            return torch.relu_(tensors[0])

    def test_a_graph_that_changes_tensors_in_place_is_always_traced():
        inputs = keras.Input([3])
        identity = layers.Identity(name="identity")(inputs * 1.0)
        first = layers.Concatenate(name="first")([identity, inputs])
        second = layers.Concatenate(name="second")(
            [Rectifying()([identity, first]), first]
        )
        model = keras.Model(inputs, second)
        # Only the third batch shows the change.
        x = np.abs(data(6)[:, :3]) * np.repeat([1, 1, -1], 2)[:, None]
        values = layertap.capture(model, x.astype("float32"), batch_size=2)
        assert_close(values["first/in/0"], x)

    def test_tensors_of_inference_mode_are_captured():
        @torch.inference_mode()
        def call(model, x, left, right):
            return concatenate([left * 2, right], 1)

        model = Calling(call)
        values = layertap.capture(model, X, batch_size=4)
        assert_close(values[f"{NAME}/in/0"], 2 * model.truth(X)[0])

    def test_a_model_that_rejects_symbolic_tensors_is_traced_with_real_ones():
        def call(model, x, left, right):
            buffer = torch.zeros(len(x), 2)
            buffer[:, :2] = left[:, :2]
            return concatenate([buffer, right], 1)

        model = Calling(call)
        values = layertap.capture(model, X, batch_size=4)
        assert_close(values[f"{NAME}/in/0"], model.truth(X)[0][:, :2])

    def test_a_torch_module_is_traced():
        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(6, 2)

            def forward(self, x):
                return torch.cat([torch.relu_(self.linear(x)), x], dim=1)

        module = Module()
        model = keras.Sequential([layers.TorchModuleWrapper(module, name="module")])
        model(X)
        values = layertap.capture(model, X, batch_size=4)
        with torch.no_grad():
            expected = torch.relu(module.linear(torch.tensor(X)))
        assert_close(values["module/torch.cat/in/0"], expected.numpy())


if BACKEND == "tensorflow":
    import tensorflow as tf

    class Converted(Towers):
        @tf.function
        def scaled(self, x, *, scale):
            if tf.reduce_mean(x) > 0:
                return x * scale
            return -x

        def call(self, x):
            left = self.left(x)
            scaled = self.scaled(left, scale=2.0)
            return tf.concat([left, scaled, self.right(x)], 1)

    def test_a_function_is_converted_by_autograph():
        model = Converted()
        model(X)
        values = layertap.capture(model, X)
        left, _ = model.truth(X)
        assert_close(values["tf.concat/in/1"], 2 * left if left.mean() > 0 else -left)

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def by_its_signature(x):
        return tf.concat([x, x if x.shape[1] is None else -x], 1)

    def test_a_function_keeps_its_signature():
        def call(model, x, left, right):
            return tf.concat([tf.ensure_shape(by_its_signature(left), [None, 8]), x], 1)

        model = Calling(call)
        values = layertap.capture(model, X, before="tf.concat@2")
        left, _ = model.truth(X)
        assert_close(values["tf.concat@2/in/0"], np.concatenate([left, left], 1))

    def test_an_axis_may_be_unknown_before_the_model_runs():
        model = Calling(lambda m, x, a, b: tf.concat([a, b], tf.rank(a) - 1 + 0 * m.n))
        model.n = tf.Variable(0)
        (join,) = layertap.plan(model, like=X).joins
        assert (join.path, join.axis) == ("tf.concat", None)


if BACKEND == "jax":
    import jax

    def test_equations_without_outputs_and_mapped_functions():
        def call(model, x, left, right):
            jax.debug.callback(lambda x: None, x)
            return jax.vmap(lambda a, b: concatenate([a, b]))(left, right)

        model = Calling(call)
        values = layertap.capture(model, X, batch_size=4)
        for actual, expected in zip(values.values(), model.truth(X), strict=True):
            assert_close(actual, expected)
