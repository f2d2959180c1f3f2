"""Values without gradients are refused by name, with the reason."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import DataError, OptionError, PartialWarning, RefusedError
from tests.support.classifier import (
    CLASSES,
    ROWS,
    X,
    branches,
    classifier,
    close,
    head_of,
    joined_then,
)

pytestmark = pytest.mark.every_backend


def test_rows_that_influence_each_other_are_refused():
    model = joined_then(lambda x: x - ops.mean(x, axis=0, keepdims=True))
    with pytest.raises(RefusedError, match=r"fusion/in_gradient/0: rows influence"):
        layertap.tap(model).gradients(X, of=0)
    with pytest.raises(RefusedError, match="rows influence each other"):
        layertap.capture(model, X, before="fusion", gradients=0)


@pytest.mark.parametrize("first", [1, 2])
def test_rows_that_influence_each_other_are_found_in_one_row(first):
    model = joined_then(lambda x: x - ops.mean(x, axis=0, keepdims=True))
    batches = [X[:first], X[first : first + 5]]
    with pytest.raises(RefusedError, match="rows influence each other"):
        layertap.capture(model, iter(batches), before="fusion", gradients=0)


def test_a_target_at_its_minimum_has_gradients_of_zero():
    model = joined_then(lambda x: x)
    least = ops.convert_to_tensor(model.predict(X[:1], verbose=0))
    gradients = layertap.tap(model).gradients(
        X[:1], of=lambda outputs: ops.sum((outputs - least) ** 2, axis=1)
    )
    for gradient in gradients.values():
        assert np.abs(gradient).max() < 1e-5


def test_a_value_that_a_stopped_gradient_hides_is_refused():
    model = joined_then(
        lambda x: layers.Concatenate(name="late")(
            [x[:, :4], ops.stop_gradient(x[:, 4:])]
        )
    )
    with pytest.warns(
        PartialWarning, match=r"fusion/in_gradient/1: output 0 changes with it"
    ):
        values = layertap.capture(model, X, gradients=0)
    assert {"fusion/in/0", "late/in/0", "late/in/1"} == set(values.gradients)
    with pytest.raises(RefusedError, match="changes with it, but the backend's"):
        layertap.capture(model, X, before="fusion", gradients=0)
    with pytest.raises(RefusedError, match="don't add up without fusion/in/1"):
        layertap.capture(model, X, before="fusion", attributions=0)


def test_a_dead_branch_has_gradients_of_zero():
    model = joined_then(layers.ReLU())
    left = model.get_layer("left")
    left.kernel.assign(0 * left.kernel)
    left.bias.assign(0 * left.bias - 3)
    values = layertap.capture(model, X, gradients=0)
    assert not values.gradients["fusion/in/0"].any()
    assert values.gradients["fusion/in/1"].any()


def test_a_value_that_leads_to_another_output_is_refused():
    x, (left, right) = branches()
    one = layers.Dense(1, name="one")(layers.Concatenate(name="first")([left, right]))
    two = layers.Dense(1, name="two")(layers.Concatenate(name="second")([right, left]))
    model = keras.Model(x, [one, two])
    with pytest.warns(PartialWarning, match="no differentiable way leads from it"):
        values = layertap.capture(model, X, gradients=lambda outputs: outputs[0])
    assert set(values.gradients) == {"first/in/0", "first/in/1"}


def test_loops_that_hide_gradients_are_refused():
    def repeat(x):
        return ops.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (0, x))[
            1
        ]

    model = joined_then(lambda x: layers.Lambda(repeat)(x))
    if keras.backend.backend() == "jax":
        with pytest.raises(RefusedError, match="Reverse-mode differentiation does not"):
            layertap.capture(model, X, before="fusion", gradients=0)
        return
    values = layertap.capture(model, X, gradients=0)
    kernel, _ = head_of(model)
    close(values.gradients["fusion/in/1"], np.tile(8 * kernel[4:, 0], (ROWS, 1)))


def test_what_is_not_one_number_a_row_is_refused():
    model = classifier()
    tap = layertap.tap(model)
    for of, message in {
        "los": "Expected 'loss', the index of an output",
        -1: "Expected 'loss', the index of an output",
        True: "Expected 'loss', the index of an output",
        3: r"Expected a model that returns \(rows, more than 3\)",
        (lambda outputs: outputs): r"Expected a tensor of shape \(rows,\)",
        ops.sum: r"Expected a tensor of shape \(rows,\)",
        (lambda outputs: outputs["a"]): "does not accept the outputs",
    }.items():
        with pytest.raises(OptionError, match=message):
            tap.gradients(X, of=of)
    with pytest.raises(DataError, match="The loss needs labels"):
        tap.gradients(X, of="loss")
    with pytest.raises(OptionError, match="was not compiled with a loss"):
        layertap.capture(joined_then(lambda x: x), (X, CLASSES), gradients="loss")


def test_a_plan_without_data_has_their_bytes_and_refuses_what_is_cut_off():
    model = classifier()
    plan = layertap.plan(model, gradients="loss", attributions=1)
    assert plan.bytes_per_row == 3 * layertap.plan(model).bytes_per_row
    assert plan.gradients_of == "loss"
    assert "fusion/in_gradient/1" in str(plan)
    x, (left, right) = branches()
    joined = layers.Concatenate(name="fusion")([left, right])
    cut = keras.Model(x, layers.Dense(1)(ops.stop_gradient(joined)))
    with pytest.raises(
        RefusedError, match="no differentiable way leads from it to output 0"
    ):
        layertap.plan(cut, before="fusion", gradients=0)
