"""Plans are made without data, with correct sizes, and with reasons for refusals."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from rich.console import Console

import layertap
from layertap.core.plan import Plan
from layertap.errors import ModelError
from tests.support.planned import ROWS, numbers, sizes, two_branches

pytestmark = pytest.mark.every_backend


@pytest.fixture(autouse=True)
def _fresh_names():
    keras.utils.clear_session(free_memory=False)


def aliases(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {name: recipe.addresses for name, recipe in plan.recipes.items()}


# The content of a plan, and its forms.


def test_a_plan_needs_no_data_and_counts_its_bytes():
    plan = layertap.plan(two_branches())
    (join,) = plan.joins
    assert (join.path, join.kind, join.axis) == ("fusion", "concatenate", 1)
    assert (join.shape, join.dtype, join.whole) == ((None, 10), "float32", True)
    assert [branch.made_by for branch in join.branches] == ["left", "right"]
    assert sizes(plan) == {"fusion/in/0": (None, 4), "fusion/in/1": (None, 6)}
    assert [branch.bytes_per_row for branch in join.branches] == [16, 24]
    assert plan.bytes_per_row == 40


def test_a_plan_as_text_as_html_on_a_terminal_and_as_json():
    plan = layertap.plan(two_branches(), outputs="head", before="*")
    console = Console(record=True, width=120)
    with console.capture() as capture:
        console.print(plan)
    for shown in (str(plan), plan._repr_html_(), capture.get()):
        for words in (
            "two",
            "fusion",
            "concatenate",
            "fusion/in/1",
            "right",
            "head/out",
        ):
            assert words in shown
        # The last line is folded to the width of the table.
        folded = " ".join(shown.split())
        assert "44 bytes per row" in folded
        assert "44 bytes per row." in folded
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert json.loads(json.dumps(plan.to_json()))["bytes_per_row"] == 44


def test_half_precision_counts_half():
    x = keras.Input((8,), name="x")
    half = layers.Dense(3, dtype="mixed_float16", name="half")(x)
    brain = layers.Dense(5, dtype="mixed_bfloat16", name="brain")(x)
    halves = layers.Concatenate(dtype="float16", name="halves")([half, x])
    brains = layers.Concatenate(dtype="bfloat16", name="brains")([brain, x])
    plan = layertap.plan(keras.Model(x, [halves, brains]))
    assert {v.address: (v.dtype, v.bytes_per_row) for v in plan.stored} == {
        "halves/in/0": ("float16", 6),
        "halves/in/1": ("float16", 16),
        "brains/in/0": ("bfloat16", 10),
        "brains/in/1": ("bfloat16", 16),
    }


# Unknown sizes.


def one_size_open() -> keras.Model:
    x = keras.Input((None, 3), name="x")
    left = layers.Dense(4, name="left")(x)
    return keras.Model(x, layers.Concatenate(name="fusion")([left, x]))


def two_sizes_open() -> keras.Model:
    x = keras.Input((None, None, 3), name="x")
    left = layers.Conv2D(4, 3, padding="same", name="left")(x)
    right = layers.Conv2D(2, 5, padding="same", name="right")(x)
    return keras.Model(x, layers.Concatenate(name="fusion")([left, right]))


def two_inputs_open() -> keras.Model:
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    a1 = layers.Conv1D(3, 2, name="shorter")(a)
    return keras.Model([a, b], layers.Concatenate(axis=1, name="fusion")([a1, b]))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            one_size_open,
            {"fusion/in/0": (None, None, 4), "fusion/in/1": (None, None, 3)},
        ),
        (
            two_sizes_open,
            {
                "fusion/in/0": (None, None, None, 4),
                "fusion/in/1": (None, None, None, 2),
            },
        ),
        (
            two_inputs_open,
            {"fusion/in/0": (None, None, 3), "fusion/in/1": (None, None, 3)},
        ),
    ],
)
def test_unknown_sizes_are_never_numbers(build, expected):
    plan = layertap.plan(build())
    assert sizes(plan) == expected
    assert plan.bytes_per_row is None
    assert "(rows, ?, " in str(plan)
    assert "? per row." in " ".join(str(plan).split())
    for stand_in in ("83", "89"):
        assert stand_in not in str(plan)
        assert stand_in not in json.dumps(plan.to_json())


def test_data_close_the_sizes_that_a_model_leaves_open():
    plan = layertap.plan(two_sizes_open(), like=numbers(2, 6, 8, 3))
    assert sizes(plan) == {
        "fusion/in/0": (None, 6, 8, 4),
        "fusion/in/1": (None, 6, 8, 2),
    }
    spec = keras.KerasTensor((None, 6, None, 3))
    assert sizes(layertap.plan(two_sizes_open(), like=spec)) == {
        "fusion/in/0": (None, 6, None, 4),
        "fusion/in/1": (None, 6, None, 2),
    }


# Values that are stored once.


def test_one_tensor_twice_in_a_join():
    x = keras.Input((8,), name="x")
    left = layers.Dense(4, name="left")(x)
    joined = layers.Concatenate(name="fusion")([left, x, left])
    plan = layertap.plan(keras.Model(x, joined))
    assert aliases(plan) == {"fusion/in/2": ("fusion/in/0",)}
    assert plan.join("fusion").branches[2].alias_of == "fusion/in/0"
    assert plan.bytes_per_row == 4 * (4 + 8)


def test_a_branch_of_two_joins():
    x = keras.Input((8,), name="x")
    left, right = (layers.Dense(n, name=f"dense_{n}")(x) for n in (4, 5))
    first = layers.Concatenate(name="first")([left, right])
    later = layers.Dense(2, name="later")(first)
    second = layers.Concatenate(name="second")([right, later, left])
    plan = layertap.plan(keras.Model(x, second))
    assert aliases(plan) == {
        "second/in/0": ("first/in/1",),
        "second/in/2": ("first/in/0",),
    }
    assert plan.bytes_per_row == 4 * (4 + 5 + 2)


def test_joins_that_feed_joins_along_one_axis():
    x = keras.Input((8,), name="x")
    first = layers.Concatenate(name="first")([x, layers.Dense(4, name="a")(x)])
    second = layers.Concatenate(name="second")(
        [first, layers.Dense(2, name="b")(first)]
    )
    third = layers.Concatenate(name="third")([second, first, x])
    plan = layertap.plan(keras.Model(x, third))
    assert aliases(plan) == {
        "second/in/0": ("first/in/0", "first/in/1"),
        "third/in/0": ("first/in/0", "first/in/1", "second/in/1"),
        "third/in/1": ("first/in/0", "first/in/1"),
        "third/in/2": ("first/in/0",),
    }
    assert plan.join("third").branches[0].alias_of == "second/out"
    assert plan.bytes_per_row == 4 * (8 + 4 + 2)


def test_a_join_that_feeds_one_along_another_axis():
    x = keras.Input((2, 3), name="x")
    dense = layers.Dense(3, name="dense")(x)
    first = layers.Concatenate(axis=1, name="first")([x, dense])
    other = layers.Dense(5, name="other")(first)
    second = layers.Concatenate(axis=2, name="second")([first, other])
    third = layers.Concatenate(axis=1, name="third")([second, second])
    plan = layertap.plan(keras.Model(x, third))
    assert plan.bytes_per_row == 4 * (6 + 6 + 20)
    assert {name: recipe.axis for name, recipe in plan.recipes.items()} == {
        "second/in/0": 1,
        "third/in/0": 2,
        "third/in/1": 2,
    }
    data = numbers(ROWS, 2, 3)
    values = layertap.capture(keras.Model(x, third), data)
    ends = keras.Model(x, [first, second]).predict(data, verbose=0)
    np.testing.assert_allclose(values["second/in/0"], ends[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values["third/in/1"], ends[1], rtol=1e-5, atol=1e-6)


def test_an_output_that_is_a_branch_is_stored_once():
    plan = layertap.plan(two_branches(), before="*", outputs=["left", "fusion"])
    assert aliases(plan) == {
        "left/out": ("fusion/in/0",),
        "fusion/out": ("fusion/in/0", "fusion/in/1"),
    }
    alone = layertap.plan(two_branches(), outputs="fusion")
    assert alone.joins == ()
    assert aliases(alone) == {}
    assert alone.bytes_per_row == 40


# Models without shapes.


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="own")
        self.left = layers.Dense(4, name="left")
        self.right = layers.Dense(6, name="right")

    def call(self, x):
        return ops.concatenate([self.left(x), self.right(x)], axis=1)


def test_a_subclassed_model_that_was_never_called_asks_for_like():
    with pytest.raises(ModelError, match=r"'own'.*never called.*like=x"):
        layertap.plan(Subclassed())


@pytest.mark.parametrize(
    "like",
    [
        numbers(1, 8),
        numbers(83, 8),
        numbers(4, 8),
        numbers(4, 8).astype("float64"),
        keras.KerasTensor((None, 8)),
        keras.KerasTensor((7, 8)),
        keras.InputSpec(shape=(None, 8), dtype="float32"),
    ],
    ids=lambda like: f"{type(like).__name__}-{like.shape}",
)
def test_data_or_specs_stand_in_for_shapes_whatever_their_rows(like):
    model = Subclassed()
    plan = layertap.plan(model, like=like)
    assert sizes(plan) == {"concatenate/in/0": (None, 4), "concatenate/in/1": (None, 6)}
    assert [branch.made_by for branch in plan.joins[0].branches] == ["left", "right"]
    assert {value.dtype for value in plan.values} == {"float32"}
    assert plan.joins[0].shape == (None, 10)
    assert layertap.plan(model, like=numbers(9, 8)) == plan


def test_a_subclassed_model_that_was_called_has_shapes():
    model = Subclassed()
    model(numbers(3, 8))
    assert sizes(layertap.plan(model))["concatenate/in/0"] == (None, 4)


class Rowwise(keras.Model):
    """Computes with its number of rows in Python, which needs a known number."""

    def __init__(self) -> None:
        super().__init__(name="rowwise")
        self.left = layers.Dense(4, name="left")

    def call(self, x):
        zeros = ops.zeros((int(x.shape[0]), 2))
        return ops.concatenate([self.left(x), zeros], axis=1)


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_a_model_that_computes_with_its_rows_in_python(rows):
    model, data = Rowwise(), numbers(6, 8)
    plan = layertap.plan(model, like=numbers(rows, 8))
    assert sizes(plan) == {"concatenate/in/0": (None, 4), "concatenate/in/1": (None, 2)}
    values = layertap.capture(model, data, batch_size=4)
    assert values["concatenate/in/1"].tolist() == [[0, 0]] * 6
    np.testing.assert_allclose(
        values["concatenate/in/0"],
        data @ model.left.get_weights()[0],
        rtol=1e-5,
        atol=1e-5,
    )
