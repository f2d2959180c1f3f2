"""A save ends in the same store after any interruption, and refuses other runs."""

import json
from itertools import product
from pathlib import Path

import keras
import numpy as np
import pytest
import zarr

import layertap
from layertap.errors import (
    OtherRunError,
    StoreError,
)
from tests.support.campaign import share
from tests.support.two_branches import DataBrokeError, numbers, two_branches
from tests.zoo import CASES

pytestmark = pytest.mark.every_backend


# Blocks of a few hundred rows, so that a small data set has several.
SMALL = 3 * 2**16


def manifest(node: zarr.Group | zarr.Array) -> dict:
    """Returns the manifest of a store without its random name."""
    return {**node.attrs["layertap"], "store": None, "seal": None}


def assert_same_store(one: Path, other: Path) -> None:
    """Asserts that two stores have equal arrays and equal manifests."""
    first, second = zarr.open_group(one, mode="r"), zarr.open_group(other, mode="r")
    assert manifest(first) == manifest(second)
    members = {name for name, _ in first.members(max_depth=None)}
    assert members == {name for name, _ in second.members(max_depth=None)}
    for name, array in first.members(max_depth=None):
        if isinstance(array, zarr.Array):
            assert manifest(array) == manifest(second[name])
            assert array[:].tobytes() == second[name][:].tobytes()


# What is captured is shown by each backend for all of them; a store takes any of it.
@pytest.mark.parametrize("case", share(6, CASES), ids=lambda case: case.name)
def test_saved_values_are_the_captured_values(case, tmp_path):
    model, inputs = case.build(), case.inputs(7)
    values = layertap.capture(model, inputs, batch_size=3)
    layertap.save(model, inputs, tmp_path / "values.zarr", batch_size=3)
    saved = layertap.open(tmp_path / "values.zarr")
    assert saved.complete
    assert saved.rows == 7
    assert list(saved) == list(values)
    for address, expected in values.items():
        assert saved[address][:].dtype == expected.dtype
        assert saved[address][:].tobytes() == expected.tobytes()
        assert saved[address][2:5].tobytes() == expected[2:5].tobytes()
        assert saved[address][-1].tobytes() == expected[-1].tobytes()
    for join in saved.plan.joins:
        assert list(saved.before(join.path)) == list(values.before(join.path))
    assert layertap.verify(saved, model, inputs)


@pytest.mark.one_backend
def test_plain_zarr_reads_the_same_values(tmp_path):
    model, x = two_branches(), numbers(1000)
    layertap.save(model, (x, x[:, 0]), tmp_path / "v.zarr", ids=range(1000))
    values = layertap.capture(model, x)
    group = zarr.open_group(tmp_path / "v.zarr", mode="r")
    assert sorted(name for name, _ in group.members(max_depth=None)) == [
        "digests", "fusion", "fusion/in", "fusion/in/0", "fusion/in/1", "ids", "labels",
    ]  # fmt: skip
    for index in (0, 1):
        array = group[f"fusion/in/{index}"]
        assert array.metadata.dimension_names[0] == "row"
        np.testing.assert_array_equal(array[:], values[f"fusion/in/{index}"])
    np.testing.assert_array_equal(group["labels"][:], x[:, 0])
    np.testing.assert_array_equal(group["ids"][:], np.arange(1000))


@pytest.mark.one_backend
def test_labels_and_ids_are_saved(tmp_path):
    x = numbers(10)
    labels = {"class": np.arange(10), "box": np.ones((10, 4), "float32")}
    names = [f"bild-ä-{i}.png" for i in range(10)]
    saved = layertap.save(two_branches(), (x, labels), tmp_path / "v.zarr", ids=names)
    assert list(saved.ids) == names
    np.testing.assert_array_equal(saved.labels["class"][:], labels["class"])
    np.testing.assert_array_equal(saved.labels["box"][3], labels["box"][3])


@pytest.mark.one_backend
def test_sample_weights_are_saved_in_their_structure(tmp_path):
    x, labels = numbers(10), {"class": np.arange(10), "box": np.ones((10, 4))}
    weights = {"class": np.arange(10) / 4, "box": np.arange(10, dtype="float32")}
    data = (x, labels, weights)
    layertap.save(two_branches(), data, tmp_path / "v.zarr", batch_size=4)
    saved = layertap.open(tmp_path / "v.zarr")
    values = layertap.capture(two_branches(), data, batch_size=4)
    (batch,) = saved.batches(10)
    for name, expected in weights.items():
        for found in (saved, values, batch):
            assert found.sample_weight[name].dtype == expected.dtype
            np.testing.assert_array_equal(found.sample_weight[name][:], expected)
    group = zarr.open_group(tmp_path / "v.zarr", mode="r")
    np.testing.assert_array_equal(group["sample_weight/class"][:], weights["class"])
    without = layertap.save(two_branches(), (x, labels), tmp_path / "without.zarr")
    assert without.sample_weight is None
    assert "sample_weight" not in without.identity


def test_a_stream_of_unknown_length_is_saved_completely_and_in_order(tmp_path):
    model, x = two_branches(), numbers(1003)
    stream = (x[start : start + 17] for start in range(0, 1003, 17))
    saved = layertap.save(model, stream, tmp_path / "v.zarr", memory=SMALL)
    values = layertap.capture(model, x, batch_size=17)
    for address, expected in values.items():
        np.testing.assert_array_equal(saved[address][:], expected)


@pytest.mark.parametrize(
    ("error", "stop"),
    share(3, [*product((DataBrokeError, KeyboardInterrupt), (1, 40, 41, 600, 1000))]),
)
def test_data_that_raise_lose_nothing_and_the_same_call_resumes(tmp_path, error, stop):
    model, x = two_branches(), numbers(1003)
    taken = []

    def batches(broken: bool):
        for start in range(0, 1003, 20):
            if broken and start + 20 > stop:
                raise error("in the data")
            taken.append(start)
            yield x[start : start + 20], x[start : start + 20, 0]

    path = tmp_path / "v.zarr"
    weights = [w.copy() for w in model.get_weights()]
    if stop < 20:
        with pytest.raises(error, match="in the data"):
            layertap.save(model, batches(True), path, memory=SMALL)
        assert not path.exists()
    else:
        with pytest.raises(error, match="in the data"):
            layertap.save(model, batches(True), path, memory=SMALL)
        stopped = layertap.open(path)
        assert not stopped.complete
        assert stopped.rows == stop - stop % 20
        np.testing.assert_array_equal(
            zarr.open_group(path, mode="r")["fusion/in/1"][:],
            layertap.capture(model, x[: stopped.rows], batch_size=20)["fusion/in/1"],
        )
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    layertap.save(model, batches(False), path, memory=SMALL)
    layertap.save(model, batches(False), tmp_path / "whole.zarr", memory=SMALL)
    assert_same_store(path, tmp_path / "whole.zarr")


def test_the_model_trains_on_after_an_interrupted_save(tmp_path):
    model, x = two_branches(), numbers(100)

    def broken():
        yield x[:50]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layertap.save(model, broken(), tmp_path / "v.zarr")
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(x, np.ones((100, 1)), verbose=0)
    assert any(
        (one != other).any()
        for one, other in zip(before, model.get_weights(), strict=True)
    )


class Counted(keras.utils.PyDataset):
    """Counts how often each batch is read."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__()
        self.x = x
        self.asked: list[int] = []

    def __len__(self) -> int:
        return -(-len(self.x) // 10)

    def __getitem__(self, index: int):
        self.asked.append(index)
        return (self.x[10 * index : 10 * index + 10],)


@pytest.mark.one_backend
def test_a_complete_store_is_compared_and_not_written_again(tmp_path):
    model, data = two_branches(), Counted(numbers(100))
    path = Path(layertap.save(model, data, tmp_path / "v.zarr").path)
    files = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    data.asked.clear()
    assert layertap.save(model, data, path).complete
    assert set(data.asked) == set(range(10))
    assert files == {file: file.stat().st_mtime_ns for file in path.rglob("*")}


def other_weights(model, x):
    model.layers[1].set_weights([w + 1 for w in model.layers[1].get_weights()])
    return model, x, {}


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_weights, "weights"),
        (lambda model, x: (two_branches(17), x, {}), "configuration"),
        (lambda model, x: (model, x, {"before": None, "outputs": "left"}), "plan"),
        (lambda model, x: (model, x + 1, {}), "data"),
        (lambda model, x: (model, x[:-1], {}), "rows"),
        (lambda model, x: (model, (x, x[:, 0]), {}), "labels"),
        (lambda model, x: (model, x, {"ids": range(len(x))}), "ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_store_of_another_run_is_refused_unless_overwritten(
    tmp_path, change, named
):
    path, x = tmp_path / "v.zarr", numbers(100)
    layertap.save(two_branches(), x, path)
    model, data, options = change(two_branches(), x)
    with pytest.raises(OtherRunError, match=named):
        layertap.save(model, data, path, **options)
    assert layertap.open(path).rows == 100
    layertap.save(model, data, path, overwrite=True, **options)
    assert layertap.verify(layertap.open(path), model, data)


@pytest.mark.one_backend
def test_changed_data_are_detected_when_a_save_resumes(tmp_path):
    model, x = two_branches(), numbers(1000)

    def stream(x, stop):
        for start in range(0, stop, 10):
            yield x[start : start + 10]
        if stop < 1000:
            raise DataBrokeError

    with pytest.raises(DataBrokeError):
        layertap.save(model, stream(x, 500), tmp_path / "v.zarr")
    changed = x.copy()
    changed[495] += 1
    with pytest.raises(OtherRunError, match="the inputs of row 495 are not those"):
        layertap.save(model, stream(changed, 1000), tmp_path / "v.zarr")
    assert layertap.save(model, stream(x, 1000), tmp_path / "v.zarr").rows == 1000


@pytest.mark.one_backend
def test_without_resume_an_incomplete_store_is_refused(tmp_path):
    model, x = two_branches(), numbers(100)

    def stream():
        yield x[:50]
        raise DataBrokeError

    with pytest.raises(DataBrokeError):
        layertap.save(model, stream(), tmp_path / "v.zarr")
    with pytest.raises(StoreError, match="50 rows"):
        layertap.save(model, iter([x[:50], x[50:]]), tmp_path / "v.zarr", resume=False)


def test_nan_is_saved_and_counted(tmp_path):
    model, x = two_branches(), numbers(40)
    x[7, 3] = np.nan
    x[9, 3] = np.inf
    saved = layertap.save(model, x, tmp_path / "v.zarr")
    assert np.isnan(saved["fusion/in/1"][7]).all()
    report = layertap.verify(saved, model, x)
    assert report
    assert report.nonfinite["fusion/in/1"] == 2 * 32


@pytest.mark.one_backend
def test_batches_of_a_store_have_every_row_once(tmp_path):
    model, x = two_branches(), numbers(2000)
    saved = layertap.save(
        model, (x, np.arange(2000)), tmp_path / "v.zarr", memory=SMALL
    )
    truth = layertap.capture(model, x)
    straight = list(saved.batches(300))
    assert [batch.rows for batch in straight] == [300] * 6 + [200]
    np.testing.assert_array_equal(
        np.concatenate([batch["fusion/in/0"] for batch in straight]),
        truth["fusion/in/0"],
    )
    shuffled = list(saved.batches(300, shuffle=True, seed=4))
    assert [batch.rows for batch in shuffled] == [300] * 6 + [200]
    rows = np.concatenate([batch.labels for batch in shuffled])
    assert sorted(rows) == list(range(2000))
    assert list(rows) != list(range(2000))
    for batch in shuffled:
        np.testing.assert_array_equal(
            batch["fusion/in/1"], truth["fusion/in/1"][batch.labels]
        )
    again = np.concatenate([b.labels for b in saved.batches(300, shuffle=True, seed=4)])
    np.testing.assert_array_equal(rows, again)


@pytest.mark.one_backend
def test_numbers_may_be_those_of_numpy(tmp_path):
    x = keras.Input((np.int64(2), None), name="x")
    halved = keras.layers.Rescaling(np.float32(0.5), name="halved")(x)
    joined = keras.layers.Concatenate(axis=np.int64(-2), name="fusion")([halved, x])
    stacked = keras.ops.stack([joined, joined], axis=np.int32(1))
    model = keras.Model(x, stacked)
    data = np.arange(24, dtype="float32").reshape(4, 2, 3)
    plan = layertap.plan(model, joins=["concatenate", "stack"])
    described = json.loads(json.dumps(plan.to_json()))
    assert [join["axis"] for join in described["joins"]] == [1, 1]
    saved = layertap.save(
        *(model, data, tmp_path / "v.zarr"),
        joins=["concatenate", "stack"],
        batch_size=np.int64(2),
        memory=np.int64(2**20),
        pad=np.int64(5),
        ids=np.arange(4, dtype="int8"),
    )
    for reported in (
        saved,
        layertap.verify(saved, model, data, rows=np.int64(2)),
        layertap.diff(saved.path, saved.path, rows=np.int64(3)),
    ):
        json.dumps(reported.to_json())
    expected = np.pad(data, [(0, 0), (0, 0), (0, 2)])
    np.testing.assert_array_equal(saved["fusion/in/1"][:], expected)
    np.testing.assert_array_equal(saved["fusion/in/0"][:], expected / 2)
