"""Reduced and narrowed values in a store: resumed, verified, described."""

import functools
import json
import re
from itertools import product

import keras
import numpy as np
import pytest
import tensorstore

import layertap
from layertap.errors import OptionError, OtherRunError
from layertap.tracing.reuse.function_fingerprint import function_fingerprint
from tests.support.campaign import share
from tests.support.reductions import (
    DTYPES,
    REDUCED,
    by_name,
    overflows,
    passing_through,
    planted,
)
from tests.zoo import find, one_in

pytestmark = pytest.mark.every_backend


SMALL = 3 * 2**16


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


@pytest.mark.one_backend
@pytest.mark.parametrize("stop", share(2, [420, 7, 833]))
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


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({}, {"dtype": "float16"}, "dtype: the store has None, this run float16"),
        ({"dtype": "bfloat16"}, {"dtype": "float16"}, "dtype: the store has bfloat16"),
        ({"reduce": "max"}, {"reduce": "avg"}, "reduce: the store has max, .* avg"),
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
        at(np.int64(1)),
        at(np.int64(2)),
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

    class Unknown(keras.layers.Layer):
        def get_config(self):
            raise RuntimeError("no configuration")

    assert re.search(r"\.Unknown \([0-9a-f]{16}\)$", function_fingerprint(Unknown()))


# Verification.


STORED = [*product((None, *DTYPES), (None, "avg", "flatten"))]


@pytest.mark.parametrize(("dtype", "reduce"), share(2, STORED))
@pytest.mark.parametrize(
    "name",
    one_in(3, ["mixed_float16", "join_feeds_join", "float32_join_of_float16_branches"]),
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
    for other in (at(0), "avg"):
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


@pytest.mark.one_backend
def test_pooled_maps_are_not_joined_along_an_axis_that_they_lost(tmp_path):
    case = by_name("axis_2_of_four")
    model, inputs = case.build(), case.inputs(5)
    saved = layertap.save(model, inputs, tmp_path / "v.zarr", reduce="avg")
    with pytest.raises(OptionError, match="joined=True"):
        saved.dataset(joined=True)
