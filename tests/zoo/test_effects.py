"""Gradients, attributions and interventions of the zoo's models.

Gradients are compared with finite differences of the model that `tap.predict` runs with
another value, and of each case's own `finish`, which is NumPy in 64 bits.
"""

import keras
import numpy as np
import pytest
from keras import ops

import layertap
from layertap.errors import ModelError, OptionError, PartialWarning, RefusedError
from tests.support.bits import in_64_bits
from tests.zoo import CASES, Case, one_in

pytestmark = pytest.mark.every_backend

ROWS = 3
# The length of finite differences, and what they may miss, relative to the terms. Keras
# multiplies matrices in 32 bits on PyTorch.
LENGTH, CLOSE = (3e-3, 2e-3) if keras.backend.backend() == "torch" else (1e-6, 1e-6)
# Where values have fewer bits than 64: the same, and the share that attributions miss.
COARSE = {
    "mixed_float16": (3e-2, 0.1, 2e-3),
    "mixed_bfloat16": (3e-2, 0.5, 2e-2),
    "float32_join_of_float16_branches": (3e-3, 2e-3, 1e-5),
}
# `finish` rounds to fewer bits.
ROUNDED = {*COARSE, "masks_side_by_side", "masks_end_to_end"}
# On JAX, operations of Keras in these models give 32 bits for 64.
ROUNDED_ON_JAX = {
    "embeddings",
    "nested_three_levels",
    "subclassed_joins_twice_by_one_layer",
}
INTEGERS = "integer_branches"

FLOATING = [case for case in CASES if case.name != INTEGERS]
each_case = pytest.mark.parametrize("case", one_in(3, FLOATING), ids=lambda c: c.name)


@pytest.fixture(autouse=True)
def double():
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with in_64_bits():
        yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def target(outputs):
    """A number for each row that depends on all outputs in different ways."""
    total = 0.0
    for leaf, factors in zip(
        keras.tree.flatten(outputs), weights(outputs), strict=True
    ):
        terms = ops.tanh(ops.cast(leaf, "float64")) * ops.convert_to_tensor(factors)
        total = total + ops.sum(terms, axis=tuple(range(1, len(leaf.shape))))
    return total


def target_in_numpy(outputs):
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(outputs)]
    pairs = zip(leaves, weights(outputs), strict=True)
    parts = [np.tanh(leaf.astype("float64")) * factors for leaf, factors in pairs]
    return sum(by_row(part) for part in parts)


def weights(outputs):
    return [
        np.random.default_rng(number).standard_normal(tuple(leaf.shape[1:]))
        for number, leaf in enumerate(keras.tree.flatten(outputs))
    ]


def by_row(array):
    return array.astype("float64").reshape(len(array), -1).sum(axis=1)


def wide(array):
    return array.astype("float64") if array.dtype.kind == "f" else array


def inputs_of(case: Case):
    return keras.tree.map_structure(wide, case.inputs(ROWS))


@each_case
def test_gradients_are_finite_differences(case: Case) -> None:
    model, x = case.build(), inputs_of(case)
    values = layertap.capture(model, x, gradients=target)
    tap = layertap.tap(model, like=x)
    random = np.random.default_rng(1)
    exact = all(value.dtype == "float64" for value in values.values())
    if keras.backend.backend() == "jax":
        exact = exact and case.name not in ROUNDED_ON_JAX
    fine = (LENGTH, CLOSE) if exact else (3e-3, 2e-3)
    length, close, _ = COARSE.get(case.name, (*fine, 0))

    assert values.gradients.keys() == set(values)
    for name, gradient in values.gradients.items():
        value, direction = values[name], random.standard_normal(gradient.shape)
        ends = [
            tap.predict(x, replace={name: (value + step).astype(value.dtype)})
            for step in (length * direction, -length * direction)
        ]
        slopes = np.subtract(*map(target_in_numpy, ends)) / (2 * length)
        missed = np.abs(slopes - by_row(gradient * direction))
        terms = by_row(np.abs(gradient * direction)).max()
        # A layer may have a bend within the length of one of the differences.
        assert np.sort(missed)[-2] <= close * terms, name


@each_case
def test_gradients_are_those_of_the_rest_of_the_model_in_numpy(case: Case) -> None:
    if case.name in ROUNDED:
        pytest.skip("finite differences in NumPy need 64 bits")
    model, x = case.build(), inputs_of(case)
    values = layertap.capture(model, x, gradients=target)
    truth = {name: wide(array) for name, array in case.truth(model, x).items()}
    random = np.random.default_rng(2)
    compared = 0
    for name in truth:
        gradient = values.gradients[name]
        direction = random.standard_normal(gradient.shape)
        ends = [
            case.finish(model, x, case.joined({**truth, name: truth[name] + step}))
            for step in (1e-6 * direction, -1e-6 * direction)
        ]
        slopes = np.subtract(*map(target_in_numpy, ends)) / 2e-6
        if not slopes.any():
            # `finish` begins at a later join.
            continue
        compared += 1
        terms = by_row(np.abs(gradient * direction)).max()
        received = by_row(gradient * direction)
        np.testing.assert_allclose(received, slopes, rtol=0, atol=2e-5 * terms)
    assert compared >= 2


@each_case
def test_attributions_add_up_to_the_change_of_the_target(case: Case) -> None:
    model, x = case.build(), inputs_of(case)
    values = layertap.capture(model, x, attributions=target)
    tap = layertap.tap(model, like=x)
    last = target_in_numpy(tap.predict(x))
    _, _, close = COARSE.get(case.name, (0, 0, 1e-5))

    assert values.attributions.keys() == set(values)
    for join, names in values.plan.lines.items():
        first = target_in_numpy(tap.predict(x, replace=dict.fromkeys(names, "zero")))
        parts = np.array([by_row(values.attributions[name]) for name in names])
        size = np.max([np.abs(first), np.abs(last), np.abs(parts).sum(axis=0)], axis=0)
        gaps = np.abs(parts.sum(axis=0) - (last - first)) / size
        assert gaps.max() <= close
        assert values.gaps[join].max() <= close


@each_case
def test_interventions_equal_the_head_where_a_model_can_be_cut(case: Case) -> None:
    model, x = case.build(), inputs_of(case)
    tap = layertap.tap(model, like=x)
    random = np.random.default_rng(3)
    for join in tap.plan.joins:
        try:
            stem, head = layertap.split(model, before=join.path, like=x)
        except (ModelError, OptionError):
            continue
        crossing = keras.tree.map_structure(ops.convert_to_numpy, stem(x))
        new = {
            name: random.standard_normal(crossing[name].shape).astype(
                crossing[name].dtype
            )
            for name in join.addresses
        }
        received, expected = tap.predict(x, replace=new), head(crossing | new)
        pairs = zip(*map(keras.tree.flatten, (received, expected)), strict=True)
        for one, other in pairs:
            close = COARSE.get(case.name, (0, 1e-6))[1]
            np.testing.assert_allclose(
                one.astype("float64"),
                ops.convert_to_numpy(other).astype("float64"),
                rtol=close,
                atol=close,
            )


def test_integers_have_neither_gradients_nor_attributions() -> None:
    case = next(case for case in CASES if case.name == INTEGERS)
    model, x = case.build(), inputs_of(case)
    with pytest.warns(PartialWarning, match="int32, which have no derivative"):
        values = layertap.capture(model, x, gradients=target, attributions=target)
    assert not values.gradients
    assert not values.attributions
    assert len(values.missing) == 4
    with pytest.raises(RefusedError, match="int32, which have no derivative"):
        layertap.capture(model, x, before="fusion", gradients=target)
