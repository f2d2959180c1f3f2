"""Verification finds differences, names them, and grades them."""

import keras
import numpy as np
import pytest
import tensorstore

import layertap
from layertap.core import tolerance
from layertap.errors import (
    DataError,
    ModelError,
    NotAStoreError,
    OptionError,
    OtherRunError,
)

pytestmark = pytest.mark.every_backend


def two_branches() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    left = keras.layers.Dense(16, activation="relu", name="left")(x)
    right = keras.layers.Dense(32, name="right")(x)
    joined = keras.layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, keras.layers.Dense(1, name="head")(joined), name="two")


def numbers(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 8)).astype("float32")


def overwrite(path, address, row, value):
    """Writes another number with a correct checksum, as a faulty program would."""
    array = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path / address)},
        },
        open=True,
    ).result()
    array[row, 0] = value


@pytest.fixture
def store(tmp_path):
    model, x = two_branches(), numbers(500)
    layertap.save(model, x, tmp_path / "v.zarr")
    return tmp_path / "v.zarr", model, x


def test_saved_values_are_identical(store):
    path, model, x = store
    report = layertap.verify(layertap.open(path), model, x, rows=None)
    assert report
    assert {check.address: check.rows for check in report.checks} == {
        "fusion/in/0": 500,
        "fusion/in/1": 500,
        "fusion/out": 500,
    }
    assert {check.verdict for check in report.checks} == {"identical"}
    assert "fusion/in/0" in str(report)
    assert "identical" in report._repr_html_()
    assert report.to_json()["ok"]


@pytest.mark.one_backend
@pytest.mark.parametrize("row", [0, 133, 499])
def test_one_wrong_number_is_found_and_named(store, row):
    path, model, x = store
    overwrite(path, "fusion/in/1", row, 7.5)
    report = layertap.verify(layertap.open(path), model, x, rows=None)
    assert not report
    verdicts = {check.address: check for check in report.checks}
    assert verdicts["fusion/in/0"].verdict == "identical"
    assert verdicts["fusion/in/1"].verdict == "different"
    assert verdicts["fusion/in/1"].first == row
    assert verdicts["fusion/out"].verdict == "different"
    right = layertap.capture(model, x)["fusion/in/1"][row, 0]
    assert verdicts["fusion/in/1"].largest == pytest.approx(abs(7.5 - right))


def test_a_sample_has_the_first_and_the_last_rows(store):
    path, model, x = store
    for row in (0, 499):
        overwrite(path, "fusion/in/0", row, 7.5)
        assert not layertap.verify(layertap.open(path), model, x, rows=64)


def test_a_stream_is_verified_too(store):
    path, model, x = store
    batches = (x[start : start + 32] for start in range(0, 500, 32))
    report = layertap.verify(layertap.open(path), model, batches, rows=64)
    assert report
    # The first batch, and the last one, which has 20 rows.
    assert report.checks[0].rows == 52


def test_another_batch_size_is_within_rounding_at_worst(store):
    path, model, x = store
    report = layertap.verify(layertap.open(path), model, x, rows=None, batch_size=7)
    assert report
    assert {check.rows for check in report.checks} == {500}


def test_other_weights_are_different_and_another_model_is_refused(store):
    path, model, x = store
    model.get_layer("left").bias.assign(np.ones(16))
    report = layertap.verify(layertap.open(path), model, x)
    verdicts = {check.address: check.verdict for check in report.checks}
    assert verdicts["fusion/in/0"] == "different"
    assert verdicts["fusion/in/1"] == "identical"
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    with pytest.raises(OtherRunError, match="configuration"):
        layertap.verify(layertap.open(path), other, x)


@pytest.mark.one_backend
def test_a_path_is_verified_as_the_values_are(store):
    path, model, x = store
    values = layertap.capture(model, x)["fusion/in/1"]
    for each in (path, str(path)):
        assert layertap.verify(each)
        assert layertap.verify(each, model, x).checks[1].rows == 500
    overwrite(path, "fusion/in/1", 3, 7.5)
    check = layertap.verify(path, model, x).checks[1]
    assert (check.address, check.first) == ("fusion/in/1", 3)
    assert check.largest == pytest.approx(abs(7.5 - values[3, 0]), rel=1e-5)


@pytest.mark.one_backend
def test_unusable_arguments_are_refused_by_name(store):
    path, model, x = store
    for saved in (None, 7, [path], model, b"v.zarr"):
        with pytest.raises(OptionError, match="Expected a string or a path"):
            layertap.verify(saved, model, x)
    with pytest.raises(ModelError, match=r"Expected a keras\.Model"):
        layertap.verify(path, x, model)
    for arguments in ({"model": model}, {"data": x}):
        with pytest.raises(OptionError, match="`model` and `data` go together"):
            layertap.verify(path, **arguments)
    for rows in (0, -3, 1.5, "all"):
        with pytest.raises(OptionError, match="`rows` is invalid"):
            layertap.verify(path, model, x, rows=rows)
    with pytest.raises(NotAStoreError):
        layertap.verify(path / "fusion")


@pytest.mark.one_backend
def test_too_few_rows_of_data_are_refused(store):
    path, model, x = store
    with pytest.raises(DataError, match=r"500.*400"):
        layertap.verify(layertap.open(path), model, x[:400])


@pytest.mark.one_backend
def test_without_a_model_every_row_is_read(store):
    path, _, _ = store
    report = layertap.verify(layertap.open(path))
    assert report
    assert {check.rows for check in report.checks} == {500}
    (shard,) = (path / "fusion" / "in" / "0").glob("c*")
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    report = layertap.verify(layertap.open(path))
    assert not report
    assert {check.address: check.verdict for check in report.checks} == {
        "fusion/in/0": "damaged",
        "fusion/in/1": "identical",
        "digests": "identical",
    }
    (damage,) = report.checks[0].damage
    assert str(shard) in damage
    assert "rows 0 to 499 of fusion/in/0" in damage
    assert "".join(damage.split()) in "".join(str(report).split())


@pytest.mark.one_backend
def test_grades():
    one = np.array([[1.0, -2.0, np.nan, np.inf]], "float32")
    assert tolerance.compare(one, one.copy()) == "identical"
    near = one.copy()
    near[0, 0] = np.nextafter(near[0, 0], 2)
    assert tolerance.compare(one, near) == "within rounding"
    for wrong in (0.5, np.nan, np.inf):
        far = one.copy()
        far[0, 0] = wrong
        assert tolerance.compare(one, far) == "different"
        assert tolerance.compare(far, one) == "different"
    signed = one.copy()
    signed[0, 3] = -np.inf
    assert tolerance.compare(one, signed) == "different"
    assert tolerance.compare(one, one.astype("float64")) == "different"
    assert tolerance.compare(np.array([1]), np.array([2])) == "different"
