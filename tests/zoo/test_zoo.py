"""Shows that the zoo's own truths are right, so that other tests may rely on them."""

from collections.abc import Callable
from itertools import combinations

import keras
import numpy as np
import pytest

from tests.zoo import CASES, LATER, Array, Case, Inputs, Joined, by_address, one_in, run

pytestmark = pytest.mark.every_backend

ROWS = 3

# `finish` starts from a case's last joins. Where those don't show an earlier one's
# branches as they are, the model's output follows from the earlier join as well.
FROM_EARLIER_JOINS: dict[str, Callable[[keras.Model, Inputs, Joined], Array]] = {
    "nested_with_branch_from_its_input": lambda m, x, joined: run(
        m, beside(joined["encoder/mixed"], run(m, x, "aside")), "head"
    ),
    "nested_twice": lambda m, x, joined: run(
        m, beside(joined["encoder/mixed"], joined["encoder@2/mixed"]), "head"
    ),
    "nested_twice_run_out_of_order": lambda m, x, joined: run(
        m,
        beside(
            run(m, joined["encoder/mixed"], "after_left"),
            run(m, joined["encoder@2/mixed"], "after_right"),
        ),
        "head",
    ),
    "functional_in_sequential_in_functional": lambda m, x, joined: run(
        m,
        beside(run(m, x, "aside"), run(m, joined["tower/encoder/mixed"], "tower/top")),
        "head",
    ),
    "subclassed_by_two_ops": lambda m, x, joined: run(
        m, beside(run(m, x, "third"), joined["concatenate"]), "head"
    ),
    "subclassed_in_functional": lambda m, x, joined: run(
        m,
        beside(run(m, x, "block/third"), joined["block/concatenate"]),
        "block/head",
        "top",
    ),
    "subclassed_joins_twice_by_one_layer": lambda m, x, joined: run(
        m,
        beside(
            run(m, joined["fusion"], "squeeze"),
            run(m, joined["fusion"], "squeeze", "shared"),
        ),
        "head",
    ),
    "subclassed_holds_functional": lambda m, x, joined: run(
        m, beside(run(m, x, "aside"), joined["encoder/mixed"]), "head"
    ),
    "custom_layer_twice": lambda m, x, joined: run(
        m,
        beside(
            run(m, joined["pair/concatenate"], "middle", "pair/left"),
            run(m, joined["pair/concatenate"], "middle", "pair/right"),
        ),
        "head",
    ),
}

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def beside(*branches: Array) -> Array:
    return np.concatenate(branches, axis=1)


@pytest.mark.parametrize("case", one_in(4, CASES), ids=lambda case: case.name)
def test_joined_branches_finish_to_the_models_output(case: Case) -> None:
    model, inputs = case.build(), case.inputs(ROWS)
    joined = case.joined(case.truth(model, inputs))

    finished = [case.finish(model, inputs, joined)]
    if case.name in FROM_EARLIER_JOINS:
        finished.append(FROM_EARLIER_JOINS[case.name](model, inputs, joined))
    predicted = model.predict(inputs, verbose=0)

    for outputs in finished:
        keras.tree.assert_same_structure(predicted, outputs)
        keras.tree.map_structure(case.assert_close, predicted, outputs)


@pytest.mark.one_backend
@each_case
def test_truths_are_whole_and_agree_with_each_other(case: Case) -> None:
    model, inputs = case.build(), case.inputs(ROWS)
    truth = case.truth(model, inputs)
    joined = case.joined(truth)

    assert {address.rpartition("/in/")[0] for address in truth} == set(case.joins)
    assert set(case.made_by) <= set(truth)
    assert {len(values) for values in truth.values()} == {ROWS}
    for address, maker in case.made_by.items():
        if maker in joined:
            np.testing.assert_array_equal(truth[address], joined[maker])


@pytest.mark.one_backend
@each_case
def test_branches_are_alike_only_where_they_are_one_tensor(case: Case) -> None:
    model, inputs = case.build(), case.inputs(ROWS)
    truth = case.truth(model, inputs)

    for (one, values), (other, others) in combinations(truth.items(), 2):
        if np.array_equal(values, others):
            assert case.made_by[one] == case.made_by[other]


@pytest.mark.one_backend
@each_case
def test_build_and_inputs_give_the_same_again(case: Case) -> None:
    first, second = case.build(), case.build()
    names = [[layer.name for layer in model.layers] for model in (first, second)]
    assert names[0] == names[1]
    for once, again in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(once, again)

    few, many = (keras.tree.flatten(case.inputs(rows)) for rows in (ROWS, 100))
    for beginning, whole in zip(few, many, strict=True):
        np.testing.assert_array_equal(beginning, whole[:ROWS])


def test_cases_are_left_out_only_where_keras_itself_fails_on_them() -> None:
    for case in LATER:
        with pytest.raises(TypeError, match="BroadcastTo"):
            case.build().predict(case.inputs(ROWS), verbose=0)


@pytest.mark.one_backend
def test_by_address_numbers_the_branches() -> None:
    assert by_address({"a/b": ["x", "y"]}) == {"a/b/in/0": "x", "a/b/in/1": "y"}


@pytest.mark.one_backend
def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES + LATER}) == len(CASES + LATER)
