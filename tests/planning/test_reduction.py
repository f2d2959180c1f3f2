"""Values are reduced, narrowed and counted, also after an interruption."""

import functools
import json

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr

import layertap
from layertap.errors import DataError, OptionError, OtherRunError
from layertap.planning.fingerprint import function_fingerprint
from tests.zoo import CASES, find

pytestmark = pytest.mark.every_backend

# Ranks from 2 to 4, integers, narrow floats, open sizes, joins of joins.
CHOSEN = [
    case
    for case in CASES
    if case.name
    in (
        "article_two_dense",
        "axis_2_of_four",
        "integer_branches",
        "join_feeds_join",
        "one_tensor_twice_in_a_join",
        "mixed_float16",
        "mixed_bfloat16",
        "variable_length",
    )
]
DTYPES = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SMALL = 3 * 2**16


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype("float64").reshape(len(array), -1)


REDUCED = {
    "mean": lambda array: wide(array).mean(axis=1),
    "max": lambda array: wide(array).max(axis=1),
    "flatten": wide,
}


def kind_of(array: np.ndarray, reduce: str) -> np.dtype:
    integers = reduce == "mean" and array.dtype.kind in "iub"
    return np.dtype("float32") if integers else array.dtype


@pytest.mark.parametrize("reduce", REDUCED)
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_reductions_are_those_of_the_true_branches(case, reduce):
    keras.backend.clear_session()
    model, inputs = case.build(), case.inputs(5)
    values = layertap.capture(model, inputs, batch_size=3, reduce=reduce)
    truth = case.truth(model, inputs)
    assert list(values) == list(truth)
    plan = layertap.plan(model, like=inputs, reduce=reduce)
    planned = {value.address: value for value in plan.values}
    for address, branch in truth.items():
        expected = REDUCED[reduce](branch).astype(kind_of(branch, reduce))
        case.assert_close(values[address], expected)
        assert planned[address].shape == (None, *expected.shape[1:])
        assert planned[address].dtype == expected.dtype.name
        assert planned[address].bytes_per_row == expected[0].nbytes


def test_the_mean_of_float16_does_not_overflow_on_its_way():
    x = keras.Input((64, 64), name="x", dtype="float16")
    same = keras.layers.Activation("linear", dtype="float16", name="same")(x)
    model = keras.Model(
        x, keras.layers.Concatenate(dtype="float16", name="fusion")([same, x])
    )
    data = np.full((2, 64, 64), 1000, "float16")
    values = layertap.capture(model, data, reduce="mean")
    assert values["fusion/in/0"].dtype == "float16"
    assert values["fusion/in/0"].tolist() == [1000, 1000]


def by_name(name: str):
    return next(case for case in CASES if case.name == name)


def average_pooling(x):
    return keras.ops.mean(x, axis=(1, 2))


def test_a_function_may_be_global_average_pooling(tmp_path):
    case = by_name("axis_2_of_four")
    model, inputs = case.build(), case.inputs(5)
    plan = layertap.plan(model, reduce=average_pooling)
    assert [branch.shape for branch in plan.joins[0].branches] == [(None, 3), (None, 3)]
    saved = layertap.save(
        model, inputs, tmp_path / "v.zarr", batch_size=2, reduce=average_pooling
    )
    for address, branch in case.truth(model, inputs).items():
        case.assert_close(saved[address][:], branch.mean(axis=(1, 2)))


def test_a_function_may_join_use_layers_and_read_the_number_of_rows():
    case = by_name("several_joins")
    model, inputs = case.build(), case.inputs(5)
    pooling = keras.layers.Identity()

    def twice(x):
        joined = keras.ops.concatenate([pooling(x), -x], axis=-1)
        return keras.ops.reshape(joined, (x.shape[0], -1))

    values = layertap.capture(model, inputs, reduce=twice)
    for address, branch in case.truth(model, inputs).items():
        expected = np.concatenate([branch, -branch], axis=-1).reshape(5, -1)
        case.assert_close(values[address], expected)


def fails(x):
    raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda x: keras.ops.mean(x, axis=0),
            r"the rows of fusion/in/0.*\(rows,.* Received \(\d",
        ),
        (lambda x: keras.ops.mean(x), r"fusion/in/0.* Received \(\)\."),
        (lambda x: [x, x], "fusion/in/0.* Received list"),
        (fails, r"(?s)accept fusion/in/0, \(rows, \d\).*no such thing"),
    ],
)
def test_functions_that_do_not_keep_the_rows_are_refused(function, words):
    model = by_name("join_is_the_output").build()
    with pytest.raises(OptionError, match=words):
        layertap.plan(model, reduce=function)


def test_rows_that_a_function_loses_are_detected():
    case = by_name("join_is_the_output")
    # Where the number of rows is unknown, it looks as if it keeps them.
    with pytest.raises((OptionError, DataError), match=r"(?s)fusion/in/0.*rows"):
        layertap.capture(case.build(), case.inputs(5), reduce=lambda x: x[:3])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float8"}, "float16.*Received 'float8'"),
        ({"dtype": "float32"}, "float16.*Received 'float32'"),
        ({"reduce": "median"}, "mean.*Received 'median'"),
        ({"reduce": 3}, "Received 3"),
    ],
)
def test_invalid_options_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        layertap.plan(by_name("article_two_dense").build(), **options)


# Narrow numbers.


def passing_through() -> keras.Model:
    """Returns a model whose branches are its inputs, to plant any number."""
    x = keras.Input((4,), name="x")
    counts = keras.Input((3,), name="counts", dtype="int32")
    plain = keras.layers.Activation("linear", name="plain")(x)
    signed = keras.layers.Rescaling(-1.0, name="signed")(x)
    first = keras.layers.Concatenate(name="first")([plain, signed])
    second = keras.layers.Concatenate(name="second")([first, plain])
    whole = keras.layers.Concatenate(name="whole", dtype="int32")([counts, counts])
    return keras.Model([x, counts], [second, whole], name="passing_through")


def planted(rows: int) -> list[np.ndarray]:
    """Returns small numbers, and numbers next to the ends of float16 and bfloat16."""
    random = np.random.default_rng(3)
    x = random.standard_normal((rows, 4), dtype="float32")
    ends = [65504, 65519.996, 65520, -65520, 65536, 3.4e38, 3.395e38, 3.3961776e38]
    ends += [-1e30, np.inf, -np.inf, np.nan]
    where = random.permutation(x.size)[: x.size // 3]
    x.reshape(-1)[where] = np.resize(np.array(ends, "float32"), len(where))
    return [x, random.integers(0, 2**30, (rows, 3)).astype("int32")]


def narrow(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[dtype])


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that two arrays are equal, in a dtype whose NaN NumPy knows."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.astype("float32"), expected.astype("float32"))


def overflows(array: np.ndarray, dtype: str) -> np.ndarray:
    """Counts the overflows of each row with NumPy."""
    became = ~np.isfinite(narrow(array, dtype).astype("float32"))
    return (became & np.isfinite(array)).sum(axis=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_become_infinite_are_counted_exactly(tmp_path, dtype):
    model, data = passing_through(), planted(300)
    counts = overflows(data[0], dtype)
    assert 0 < counts.sum() < 400
    values = layertap.capture(model, data, batch_size=7, dtype=dtype)
    total = int(counts.sum())
    assert values.overflowed == {"first/in/0": total, "first/in/1": total}
    for address, expected in (
        ("first/in/0", data[0]),
        ("first/in/1", -data[0]),
        ("second/in/0", np.concatenate([data[0], -data[0]], axis=1)),
        ("second/in/1", data[0]),
    ):
        assert values[address].dtype == DTYPES[dtype]
        assert_same(values[address], narrow(expected, dtype))
    assert values["whole/in/0"].dtype == "int32"
    np.testing.assert_array_equal(values["whole/in/0"], data[1])

    path = tmp_path / "v.zarr"
    saved = layertap.save(model, data, path, batch_size=7, dtype=dtype)
    assert saved.overflowed == values.overflowed
    assert saved.to_json()["overflowed"] == values.overflowed
    array = zarr.open_group(path, mode="r")["overflowed"]
    assert array.attrs["layertap"]["columns"] == ["first/in/0", "first/in/1"]
    np.testing.assert_array_equal(array[:], np.stack([counts, counts], axis=1))
    for batch, start in zip(saved.batches(110), (0, 110, 220), strict=True):
        part = int(counts[start : start + 110].sum())
        assert batch.overflowed == {"first/in/0": part, "first/in/1": part}


def test_nothing_is_counted_where_nothing_overflows(tmp_path):
    model, data = passing_through(), planted(20)
    assert layertap.capture(model, data).overflowed == {}
    saved = layertap.save(model, data, tmp_path / "plain.zarr")
    assert saved.overflowed == {}
    assert "overflowed" not in saved.reader.paths
    data[0] = np.ones((20, 4), "float32")
    saved = layertap.save(model, data, tmp_path / "narrow.zarr", dtype="float16")
    assert saved.overflowed == {}
    # Means are narrowed after they are computed: means of large numbers overflow.
    data[0] = np.full((20, 4), 1e5, "float32")
    values = layertap.capture(model, data, dtype="float16", reduce="mean")
    # Of the inner join, too: 0, so left out. Means of integers are much too large.
    assert values.overflowed == dict.fromkeys(
        ("first/in/0", "first/in/1", "whole/in/0"), 20
    )


def test_bfloat16_on_disk_is_bfloat16(tmp_path):
    model, data = passing_through(), planted(50)
    layertap.save(model, data, tmp_path / "v.zarr", dtype="bfloat16")
    kvstore = {"driver": "file", "path": str(tmp_path / "v.zarr" / "first" / "in/0")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    assert array.dtype.name == "bfloat16"
    assert_same(array.read().result(), narrow(data[0], "bfloat16"))


def test_recipes_hold_for_narrow_values_and_not_for_reduced_ones(tmp_path):
    case = by_name("join_feeds_join")
    model, inputs = case.build(), case.inputs(9)
    truth = case.truth(model, inputs)
    rebuilt = {"second/in/0", "third/in/0"}
    assert set(layertap.plan(model).recipes) == rebuilt
    assert set(layertap.plan(model, dtype="float16").recipes) == rebuilt
    assert set(layertap.plan(model, reduce="mean").recipes) == set()
    saved = layertap.save(model, inputs, tmp_path / "half.zarr", dtype="float16")
    for address, branch in truth.items():
        np.testing.assert_allclose(saved[address][:], branch, rtol=1e-3, atol=1e-3)
        assert saved[address].dtype == "float16"
    saved = layertap.save(
        model, inputs, tmp_path / "mean.zarr", dtype="float16", reduce="mean"
    )
    for address, branch in truth.items():
        expected = branch.mean(axis=1)
        np.testing.assert_allclose(saved[address][:], expected, rtol=1e-3, atol=1e-3)


def test_a_reduced_join_in_two_places_is_stored_once():
    x = keras.Input((4,), name="x")
    inner = keras.layers.Concatenate(name="inner")([x, keras.ops.negative(x)])
    one = keras.layers.Concatenate(name="one")([inner, x])
    two = keras.layers.Concatenate(name="two")([one, inner])
    model = keras.Model(x, two)
    plan = layertap.plan(model, outputs="inner", before="*", reduce="max")
    aliases = {value.address: value.alias_of for value in plan.values}
    assert aliases == {
        "inner/in/0": None,
        "inner/in/1": None,
        "one/in/0": None,
        "one/in/1": "inner/in/0",
        "two/in/0": None,
        "two/in/1": "one/in/0",
        "inner/out": "one/in/0",
    }
    data = np.array([[1, 2, 3, -4], [-1, -1, -5, -2]], "float32")
    values = layertap.capture(
        model, data, outputs="inner", before="*", reduce="max", dtype="float16"
    )
    assert {name: array.tolist() for name, array in values.items()} == {
        "inner/in/0": [3, -1],
        "inner/in/1": [4, 5],
        "one/in/0": [4, 5],
        "one/in/1": [3, -1],
        "two/in/0": [4, 5],
        "two/in/1": [4, 5],
        "inner/out": [4, 5],
    }


class ChangesItsInput(keras.layers.Layer):
    """Adds to its first input, in place if the backend supports that."""

    def call(self, inputs):
        x, _ = inputs
        return x.add_(1) if hasattr(x, "add_") else x + 1


@pytest.mark.parametrize("reduce", ["flatten", "max"])
def test_a_value_that_the_model_changes_later_is_reduced_before(reduce):
    x = keras.Input((4,), name="x")
    twice = keras.layers.Rescaling(2.0, name="twice")(x)
    joined = keras.layers.Concatenate(name="early")([twice, x])
    changed = ChangesItsInput(name="changed")([twice, joined])
    late = keras.layers.Concatenate(name="late")([changed, joined])
    model = keras.Model(x, late)
    data = np.arange(8, dtype="float32").reshape(2, 4)
    values = layertap.capture(
        model, data, before="early", outputs="late", reduce=reduce
    )
    expected = REDUCED[reduce](2 * data)
    np.testing.assert_array_equal(values["early/in/0"], expected)


# The identity of a run.


class StoppedError(Exception):
    """Raised by the data."""


@pytest.mark.parametrize("stop", [7, 420, 833])
def test_counts_are_right_when_a_save_resumes_after_a_stop(tmp_path, stop):
    model, data = passing_through(), planted(1000)

    def batches(end: int):
        for start in range(0, end, 7):
            yield [array[start : start + 7] for array in data]
        if end < 1000:
            raise StoppedError

    def save(end, path):
        return layertap.save(
            model, batches(end), tmp_path / path, dtype="float16", memory=SMALL
        )

    with pytest.raises(StoppedError):
        save(stop, "v.zarr")
    stopped = layertap.open(tmp_path / "v.zarr")
    assert 0 < stopped.rows < 1000
    counts = overflows(data[0], "float16")
    part = int(counts[: stopped.rows].sum())
    expected = {"first/in/0": part, "first/in/1": part} if part else {}
    assert stopped.overflowed == expected
    saved = save(1000, "v.zarr")
    total = int(counts.sum())
    assert saved.overflowed == {"first/in/0": total, "first/in/1": total}
    complete = save(1000, "whole.zarr")
    for address in [*saved.reader.paths]:
        one, other = saved.reader.array(address)[:], complete.reader.array(address)[:]
        assert one.tobytes() == other.tobytes()


def at(index: int):
    return lambda x: x[:, index]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({}, {"dtype": "float16"}, "dtype: the store has None, this run float16"),
        ({"dtype": "bfloat16"}, {"dtype": "float16"}, "dtype: the store has bfloat16"),
        ({"reduce": "max"}, {"reduce": "mean"}, "reduce: the store has max, .* mean"),
        ({"reduce": "max"}, {}, "reduce: the store has max, this run None"),
        ({"reduce": at(0)}, {"reduce": at(1)}, "reduce: the store has .*<lambda>"),
    ],
)
def test_another_dtype_or_reduction_is_another_run(tmp_path, first, second, named):
    case = by_name("article_two_dense")
    model, inputs = case.build(), case.inputs(20)
    path = tmp_path / "v.zarr"
    layertap.save(model, inputs, path, **first)
    with pytest.raises(OtherRunError, match=named):
        layertap.save(model, inputs, path, **second)
    assert layertap.save(model, inputs, path, **first).complete
    saved = layertap.save(model, inputs, path, overwrite=True, **second)
    assert saved.plan.dtype == second.get("dtype")


def test_a_function_is_identified_by_its_code_defaults_and_closure():
    def default(x, index=0):
        return x[:, index]

    def other_default(x, index=1):
        return x[:, index]

    def itself(x):
        return itself(x)

    functions = [
        at(0),
        at(1),
        default,
        other_default,
        functools.partial(default, index=2),
        functools.partial(default, index=3),
        itself,
        keras.layers.GlobalAveragePooling1D(keepdims=True),
        keras.layers.GlobalAveragePooling1D(),
        at(np.arange(3)),
        at(np.arange(1, 4)),
        lambda x: x[:, [n + 1 for n in (0, 1)]],
        lambda x: x[:, [n + 2 for n in (0, 1)]],
    ]
    assert len({function_fingerprint(function) for function in functions}) == len(
        functions
    )
    assert function_fingerprint(at(1)) == function_fingerprint(at(1))
    assert function_fingerprint(at(1)).startswith(
        f"{at.__module__}.at.<locals>.<lambda> ("
    )
    pooling = keras.layers.GlobalAveragePooling1D(name="another")
    assert function_fingerprint(pooling) == function_fingerprint(functions[8])


# Verification.


@pytest.mark.parametrize("dtype", [None, *DTYPES])
@pytest.mark.parametrize("reduce", [None, "mean", "flatten"])
@pytest.mark.parametrize(
    "name", ["join_feeds_join", "mixed_float16", "float32_join_of_float16_branches"]
)
def test_saved_values_are_verified(tmp_path, name, dtype, reduce):
    case = by_name(name)
    model, inputs = case.build(), case.inputs(20)
    saved = layertap.save(model, inputs, tmp_path / "v", dtype=dtype, reduce=reduce)
    report = layertap.verify(saved, model, inputs)
    assert {check.verdict for check in report.checks} == {"identical"}
    checked = {check.address for check in report.checks}
    joins = {f"{join}/out" for join in case.joins}
    assert checked & joins == (joins if reduce is None else set())
    assert ("overflowed" in checked) == bool(saved.plan.narrowed)
    assert layertap.verify(saved)


def test_a_difference_larger_than_the_narrow_dtype_rounds_is_found(tmp_path):
    model, data = passing_through(), planted(40)
    data[0] = np.random.default_rng(5).uniform(1, 2, (40, 4)).astype("float32")
    saved = layertap.save(model, data, tmp_path / "v.zarr", dtype="float16")
    # A hundredth is much more than the rounding of float32.
    assert not layertap.verify(saved, model, [1.01 * data[0], data[1]])
    assert layertap.verify(saved, model, [data[0] * (1 + 1e-6), data[1]])
    with pytest.raises(OtherRunError, match="data"):
        layertap.save(
            model, [1.01 * data[0], data[1]], tmp_path / "v.zarr", dtype="float16"
        )


def test_wrong_counts_are_found(tmp_path):
    model, data = passing_through(), planted(40)
    saved = layertap.save(model, data, tmp_path / "v.zarr", dtype="float16")
    kvstore = {"driver": "file", "path": str(tmp_path / "v.zarr" / "overflowed")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    array[11, 1] = 77
    report = layertap.verify(layertap.open(saved.path), model, data)
    wrong = [check for check in report.checks if check.verdict == "different"]
    assert [(check.address, check.first) for check in wrong] == [("overflowed", 11)]


def test_verifying_values_that_a_function_reduced_needs_the_function(tmp_path):
    case = by_name("article_two_dense")
    model, inputs = case.build(), case.inputs(20)
    layertap.save(model, inputs, tmp_path / "v.zarr", reduce=at(1))
    saved = layertap.open(tmp_path / "v.zarr")
    for address, branch in case.truth(model, inputs).items():
        case.assert_close(saved[address][:], branch[:, 1])
    assert layertap.verify(saved)
    assert layertap.verify(saved, model, inputs, reduce=at(1))
    with pytest.raises(OptionError, match=r"<lambda>.*reduce="):
        layertap.verify(saved, model, inputs)
    for other in (at(0), "mean"):
        with pytest.raises(OtherRunError, match="<lambda>"):
            layertap.verify(saved, model, inputs, reduce=other)


def test_a_layer_may_have_the_name_of_the_counts(tmp_path):
    x = keras.Input((4,), name="x")
    twice = keras.layers.Rescaling(2.0, name="twice")(x)
    model = keras.Model(x, keras.layers.Concatenate(name="overflowed")([twice, x]))
    data = np.full((3, 4), 5e4, "float32")
    saved = layertap.save(model, data, tmp_path / "v.zarr", dtype="float16")
    first, _ = saved
    assert first == "%6F%76%65%72%66%6C%6F%77%65%64/in/0"
    assert saved.overflowed == {first: 12}


def test_the_plan_describes_the_stored_values_and_survives_json():
    model = by_name("last_axis_of_four").build()
    plan = layertap.plan(model, dtype="bfloat16", reduce="flatten")
    text = str(plan)
    for words in ("bfloat16", "flatten", "(rows, 84)", "168"):
        assert words in text
    assert plan.joins[0].dtype == "float32"
    data = json.loads(json.dumps(plan.to_json()))
    assert layertap.Plan.from_json(data) == plan
    assert data["narrowed"] == dict.fromkeys(plan.addresses, "float32")
    assert find(model, "narrow").compute_dtype == "float32"
