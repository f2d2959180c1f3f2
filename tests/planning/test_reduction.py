"""Values are reduced, narrowed and counted, also after an interruption."""

import keras
import numpy as np
import pytest
import tensorstore
import zarr

import layertap
from layertap.errors import DataError, OptionError
from tests.support.reductions import (
    DTYPES,
    REDUCED,
    by_name,
    narrow,
    overflows,
    passing_through,
    planted,
)
from tests.zoo import CASES, one_in

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


def kind_of(array: np.ndarray, reduce: str) -> np.dtype:
    integers = reduce == "avg" and array.dtype.kind in "iub" and array.ndim > 2
    return np.dtype("float32") if integers else array.dtype


@pytest.mark.parametrize("reduce", REDUCED)
@pytest.mark.parametrize("case", one_in(4, CHOSEN), ids=lambda case: case.name)
def test_reductions_are_those_of_the_true_branches(case, reduce):
    keras.utils.clear_session(free_memory=False)
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


def test_the_average_of_float16_does_not_overflow_on_its_way():
    x = keras.Input((64, 64), name="x", dtype="float16")
    same = keras.layers.Activation("linear", dtype="float16", name="same")(x)
    model = keras.Model(
        x, keras.layers.Concatenate(dtype="float16", name="fusion")([same, x])
    )
    data = np.full((2, 64, 64), 1000, "float16")
    values = layertap.capture(model, data, reduce="avg")
    assert values["fusion/in/0"].dtype == "float16"
    assert values["fusion/in/0"].tolist() == [[1000] * 64] * 2


@pytest.mark.parametrize("reduce", ["avg", "max"])
def test_maps_are_pooled_over_all_axes_but_the_channels(reduce):
    sizes = [(5,), (4, 5), (3, 4, 5), (2, 3, 4, 5)]
    inputs = [keras.Input(size, name=f"x{len(size)}") for size in sizes]
    doubled = [keras.layers.Rescaling(2.0, name=f"d{len(x.shape)}")(x) for x in inputs]
    model = keras.Model(inputs, doubled)
    random = np.random.default_rng(0)
    data = [random.normal(size=(6, *size)).astype("float32") for size in sizes]
    values = layertap.capture(model, data, outputs="*", reduce=reduce)
    number = np.mean if reduce == "avg" else np.max
    for array in data:
        axes = tuple(range(1, array.ndim - 1))
        expected = number(2 * array, axes) if axes else 2 * array
        actual = values[f"d{array.ndim}/out"]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_an_input_of_the_model_is_pooled_as_well():
    x = keras.Input((4, 5, 3), name="x")
    model = keras.Model(x, keras.layers.Rescaling(2.0, name="double")(x))
    data = np.random.default_rng(0).normal(size=(6, 4, 5, 3)).astype("float32")
    values = layertap.capture(model, data, outputs=["x", "double"], reduce="max")
    np.testing.assert_array_equal(values["x/out"], data.max((1, 2)))
    np.testing.assert_array_equal(values["double/out"], 2 * data.max((1, 2)))


def channels_first_and_last():
    x = keras.Input((4, 5, 3), name="x")
    pads = [
        keras.layers.ZeroPadding2D(1, data_format=f"channels_{name}", name=name)
        for name in ("first", "last")
    ]
    first, last = (pad(x) for pad in pads)
    again = keras.layers.Dropout(0.5, name="again")(first)
    plain = keras.layers.Rescaling(2.0, name="plain")(first)
    return keras.Model(x, [first, last, again, plain])


def test_pooling_knows_the_channels_by_the_layer_that_made_a_value(tmp_path):
    model = channels_first_and_last()
    x = np.random.default_rng(0).normal(size=(6, 4, 5, 3)).astype("float32")
    first = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    last = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    names, path = ["first", "last", "again"], tmp_path / "v.zarr"
    saved = layertap.save(model, x, path, outputs=names, reduce="max")
    for name, expected in (
        ("first/out", first.max((2, 3))),
        ("again/out", first.max((2, 3))),
        ("last/out", last.max((1, 2))),
    ):
        np.testing.assert_array_equal(saved[name][:], expected)
    with pytest.raises(OptionError, match=r"channels of plain/out: plain has no"):
        layertap.plan(model, outputs="plain", reduce="avg")
    usual = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        only = keras.Model(model.input, model.get_layer("plain").output)
        saved = layertap.save(
            only, x, tmp_path / "w.zarr", outputs="plain", reduce="avg"
        )
    finally:
        keras.config.set_image_data_format(usual)
    expected = 2 * first.mean((2, 3))
    np.testing.assert_allclose(saved["plain/out"][:], expected, rtol=1e-5, atol=1e-6)
    # The store knows it, whatever Keras is configured for.
    report = layertap.verify(layertap.open(tmp_path / "w.zarr"), only, x)
    assert [check.verdict for check in report.checks] == ["identical"]


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
        ({"reduce": "median"}, "avg.*Received 'median'"),
        ({"reduce": "mean"}, "Received 'mean'. Pass 'avg' .*each channel.*a function"),
        ({"reduce": 3}, "Received 3"),
    ],
)
def test_invalid_options_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        layertap.plan(by_name("article_two_dense").build(), **options)


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that two arrays are equal, in a dtype whose NaN NumPy knows."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.astype("float32"), expected.astype("float32"))


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

    def average(x):
        return keras.ops.mean(keras.ops.cast(x, "float32"), axis=1)

    values = layertap.capture(model, data, dtype="float16", reduce=average)
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
    assert set(layertap.plan(model, reduce="avg").recipes) == set()
    saved = layertap.save(model, inputs, tmp_path / "half.zarr", dtype="float16")
    for address, branch in truth.items():
        np.testing.assert_allclose(saved[address][:], branch, rtol=1e-3, atol=1e-3)
        assert saved[address].dtype == "float16"
    saved = layertap.save(
        model, inputs, tmp_path / "flat.zarr", dtype="float16", reduce="flatten"
    )
    for address, branch in truth.items():
        expected = branch.reshape(len(branch), -1)
        np.testing.assert_allclose(saved[address][:], expected, rtol=1e-3, atol=1e-3)


def test_a_reduced_join_in_two_places_is_stored_once():
    x = keras.Input((2, 2), name="x")
    inner = keras.layers.Concatenate(1, name="inner")([x, keras.ops.negative(x)])
    one = keras.layers.Concatenate(1, name="one")([inner, x])
    two = keras.layers.Concatenate(1, name="two")([one, inner])
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
    data = np.array([[[1, 2], [3, -4]], [[-1, -1], [-5, -2]]], "float32")
    values = layertap.capture(
        model, data, outputs="inner", before="*", reduce="max", dtype="float16"
    )
    assert {name: array.tolist() for name, array in values.items()} == {
        "inner/in/0": [[3, 2], [-1, -1]],
        "inner/in/1": [[-1, 4], [5, 2]],
        "one/in/0": [[3, 4], [5, 2]],
        "one/in/1": [[3, 2], [-1, -1]],
        "two/in/0": [[3, 4], [5, 2]],
        "two/in/1": [[3, 4], [5, 2]],
        "inner/out": [[3, 4], [5, 2]],
    }
