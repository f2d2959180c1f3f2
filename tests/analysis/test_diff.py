"""`layertap diff` reports exactly the differences that were put into two stores."""

import json

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

import layertap
from layertap.cli import main
from layertap.core.plan import Plan
from layertap.core.tables import plain
from layertap.errors import AddressError, NotAStoreError, OptionError
from tests.support.diff_stores import ROWS, plan_of, store, values_of


@pytest.fixture
def one(tmp_path):
    return store(tmp_path / "one", plan_of(), values_of(plan_of()))


@pytest.mark.parametrize("block_rows", [1, 8, 13, 60])
def test_stores_of_the_same_values(tmp_path, one, block_rows):
    values = values_of(plan_of())
    other = store(tmp_path / "other", plan_of(), values, block_rows=block_rows)
    report = layertap.diff(one, layertap.open(other))
    assert report
    assert [result.address for result in report.compared] == [
        "fusion/in/0",
        "fusion/in/1",
    ]
    for result in report.compared:
        assert (result.verdict, result.rows, result.largest) == (
            "identical",
            ROWS,
            0,
        )
        assert (result.at, result.values) == (None, None)
    assert (report.alike, report.rows, report.identity) == (1, (ROWS, ROWS), [])


@pytest.mark.parametrize("block_rows", [7, 8, 60])
def test_the_largest_difference_and_its_place(tmp_path, one, block_rows):
    values = values_of(plan_of())
    first = values["fusion/in/0"].copy()
    for row, column, apart in ((3, 0, 0.5), (31, 2, -4.0), (49, 1, 2.0)):
        values["fusion/in/0"][row, column] += np.float32(apart)
    values["fusion/in/1"][17, 1, 0] += 3
    other = store(tmp_path / "other", plan_of(), values, block_rows=block_rows)
    report = layertap.diff(one, other)
    assert not report
    result = report["fusion/in/0"]
    exact = np.abs(first.astype("float64") - values["fusion/in/0"].astype("float64"))
    assert (result.verdict, result.rows, result.at) == (
        "different",
        ROWS,
        (31, 2),
    )
    assert result.largest == exact[31, 2]
    assert result.values == (first[31, 2], values["fusion/in/0"][31, 2])
    np.testing.assert_allclose(result.mean, exact.mean(), rtol=1e-12)
    assert result.scale == max(np.abs(first).max(), np.abs(values["fusion/in/0"]).max())
    assert result.relative == result.largest / result.scale
    whole = report["fusion/in/1"]
    assert (whole.verdict, whole.at, whole.largest) == ("different", (17, 1, 0), 3)
    np.testing.assert_allclose(whole.mean, 3 / (4 * ROWS))
    shown = " ".join(plain(report).split())
    assert "row 31 at 2" in shown
    assert "2 compared, 2 of them differ beyond rounding. 1 more are made" in shown


@pytest.mark.parametrize(("steps", "ok"), [(200, True), (300, False)])
def test_rounding_is_not_a_difference(tmp_path, one, steps, ok):
    values = values_of(plan_of())
    row = values["fusion/in/0"][20]
    row[0] = 0
    before = store(tmp_path / "before", plan_of(), values)
    row[0] = steps * np.finfo("float32").eps * np.abs(row).max()
    other = store(tmp_path / "other", plan_of(), values)
    report = layertap.diff(before, other)
    verdict = "within rounding" if ok else "different"
    assert (bool(report), report["fusion/in/0"].verdict) == (ok, verdict)
    assert report["fusion/in/0"].at == (20, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrower_store_is_within_its_rounding(tmp_path, one, dtype):
    values = values_of(plan_of())
    wide = values["fusion/in/0"].astype("float64")
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    values["fusion/in/0"] = values["fusion/in/0"].astype(kind)
    plan = plan_of(dtype=dtype, narrowed={"fusion/in/0": "float32"})
    half = store(tmp_path / "half", plan, values)
    for a, b in ((one, half), (half, one)):
        report = layertap.diff(a, b)
        assert report, report
        result = report["fusion/in/0"]
        assert set(result.dtypes) == {"float32", dtype}
        apart = np.abs(wide - values["fusion/in/0"].astype("float64"))
        assert result.largest == apart.max()
        assert apart[result.at] == apart.max()
    values["fusion/in/0"][4, 1] += values["fusion/in/0"].dtype.type(3)
    worse = store(tmp_path / "worse", plan, values)
    assert layertap.diff(one, worse)["fusion/in/0"].at == (4, 1)
    assert not layertap.diff(one, worse)


def test_nan_and_infinities(tmp_path):
    values = values_of(plan_of())
    values["fusion/in/0"][2] = np.nan, np.inf, -np.inf
    one = store(tmp_path / "a", plan_of(), values)
    same = store(tmp_path / "b", plan_of(), values)
    assert layertap.diff(one, same)["fusion/in/0"].verdict == "identical"
    values["fusion/in/0"][2] = 1, np.inf, np.inf
    report = layertap.diff(one, store(tmp_path / "c", plan_of(), values))
    result = report["fusion/in/0"]
    assert (result.verdict, result.largest, result.broken) == (
        "different",
        np.inf,
        2,
    )
    assert result.at == (2, 0)
    assert np.isnan(result.values[0])
    assert result.values[1] == 1
    assert result.mean == 0
    json.dumps(report.to_json(), allow_nan=False)
    assert "2 not finite in one" in " ".join(plain(report).split())


def test_integers_that_floats_cannot_hold(tmp_path):
    values = values_of(plan_of())
    ids = [2**60 + row for row in range(ROWS)]
    one = store(tmp_path / "a", plan_of(), values, ids=ids)
    ids[23] += 1
    report = layertap.diff(one, store(tmp_path / "b", plan_of(), values, ids=ids))
    result = report["ids"]
    assert (result.verdict, result.at) == ("different", (23,))
    assert result.values == (2**60 + 23, 2**60 + 24)


def test_zeros_of_two_signs(tmp_path):
    values = values_of(plan_of())
    values["fusion/in/0"][5, 0] = 0.0
    one = store(tmp_path / "a", plan_of(), values)
    values["fusion/in/0"][5, 0] = -0.0
    report = layertap.diff(one, store(tmp_path / "b", plan_of(), values))
    result = report["fusion/in/0"]
    assert (result.verdict, result.largest, result.at) == (
        "within rounding",
        0,
        None,
    )


def test_texts_of_other_lengths(tmp_path):
    values = values_of(plan_of())
    names = [f"row {row}" for row in range(ROWS)]
    one = store(tmp_path / "a", plan_of(), values, ids=names)
    longer = [*names[:40], "ein längerer Name", *names[41:]]
    report = layertap.diff(one, store(tmp_path / "b", plan_of(), values, ids=longer))
    result = report["ids"]
    assert (result.verdict, result.at, result.rows) == (
        "different",
        (40,),
        ROWS,
    )
    assert result.values == ("row 40", "ein längerer Name")
    assert "row 40 row 40 ein längerer Name" in " ".join(plain(report).split())


def test_labels_are_exact(tmp_path):
    values, labels = values_of(plan_of()), list(np.linspace(0, 1e6, ROWS))
    one = store(tmp_path / "a", plan_of(), values, labels=labels)
    labels[7] += 1e-6
    report = layertap.diff(one, store(tmp_path / "b", plan_of(), values, labels=labels))
    assert (report["labels"].verdict, report["labels"].at) == ("different", (7,))
    assert report["fusion/in/0"].ok
    assert not report


def test_addresses_and_shapes_of_one_store_only(tmp_path, one):
    plan = plan_of(width=4, others=("beyond",))
    other = store(tmp_path / "other", plan, values_of(plan), labels=[1] * ROWS)
    for a, b, side in ((one, other, "B"), (other, one, "A")):
        report = layertap.diff(a, b)
        assert not report
        assert report["beyond/in/0"].why == report["labels"].why == f"only in {side}"
        shapes = {"B": "(3,) in A, of (4,) in B", "A": "(4,) in A, of (3,) in B"}
        assert report["fusion/in/0"].why == f"rows of {shapes[side]}"
        assert report["fusion/in/0"].rows == 0
        assert report["fusion/in/1"].verdict == "identical"
        shown = [" ".join(line.split()) for line in plain(report).splitlines()]
        assert f"beyond/in/0 only in {side}" in shown
        assert not any("different" in line for line in shown)
        data = {one["address"]: one for one in report.to_json()["compared"]}
        absent = {data["beyond/in/0"][n] for n in ("largest", "relative", "mean")}
        assert absent == {None}


def test_other_numbers_of_rows(tmp_path, one):
    values = {name: array[:30] for name, array in values_of(plan_of()).items()}
    other = store(tmp_path / "other", plan_of(), values, block_rows=11)
    report = layertap.diff(one, other)
    assert not report
    assert report.rows == (ROWS, 30)
    assert {(e.rows, e.verdict) for e in report.compared} == {(30, "identical")}
    assert "A has 50 rows, B 30." in plain(report)
    assert layertap.diff(one, other, rows=30)
    assert layertap.diff(one, other, rows=9)["fusion/in/0"].rows == 9
    assert not layertap.diff(one, other, rows=31)


def test_other_runs_are_reported_and_are_not_a_difference(tmp_path, one):
    other = store(
        tmp_path / "o", plan_of(), values_of(plan_of()), backend="\x1b[31mtorch"
    )
    report = layertap.diff(one, other)
    assert report
    assert report.identity == ["backend: A jax, B \ufffd[31mtorch"]
    assert report.identity[0] in plain(report)


def test_values_that_are_rebuilt_differently_are_compared(tmp_path, one):
    plan = plan_of()
    plan = Plan(plan.model, plan.joins, recipes={})
    values = values_of(plan_of())
    values["again/in/0"] = values["fusion/in/0"]
    report = layertap.diff(one, store(tmp_path / "other", plan, values))
    assert report["again/in/0"].verdict == "identical"
    assert report["again/in/0"].rows == ROWS


@pytest.mark.parametrize("store", [None, 7, ["a"], b"path"])
def test_anything_but_a_store_or_a_path_is_refused(one, store):
    for pair in ((one, store), (store, one)):
        with pytest.raises(OptionError, match="Expected a string or a path"):
            layertap.diff(*pair)


def test_bad_input(tmp_path, one):
    with pytest.raises(NotAStoreError):
        layertap.diff(one, tmp_path / "gone")
    with pytest.raises(OptionError, match=r"`rows` is invalid.*Received 0"):
        layertap.diff(one, one, rows=0)
    with pytest.raises(AddressError, match="fusion/in/0"):
        layertap.diff(one, one)["fusion/in/9"]


def command(*words):
    done = CliRunner().invoke(main, ["diff", *map(str, words)])
    return done.exit_code, done.output


def test_the_command(tmp_path, one):
    assert command(one, one)[0] == 0
    values = values_of(plan_of())
    values["fusion/in/0"][3, 1] = 1e6
    other = store(tmp_path / "other", plan_of(), values)
    status, shown = command(one, other)
    assert status == 1
    assert "row 3 at 1" in shown
    status, shown = command(one, other, "--json")
    data = json.loads(shown)
    assert (status, data["ok"]) == (1, False)
    assert data["compared"][0]["at"] == [3, 1]
    assert data["compared"][0]["values"][1] == 1e6
    assert command(one, other, "--rows", 3)[0] == 0
    assert command(one, tmp_path / "gone")[0] == 2
    assert command(one)[0] == 2
    status, shown = command(one, one, "--pair", "fusion", "merge")
    assert (status, shown.count("\n")) == (2, 1)
    assert "No operation of this model matches 'merge'" in shown
