"""Data frames of pandas hold what a store holds."""

import numpy as np
import pandas
import pytest

from layertap.errors import AddressError
from tests.support.export_stores import IDS, ROWS, assert_same, plan_of, store, widened


@pytest.fixture
def saved_with(tmp_path):
    def make(**along):
        return store(tmp_path / "values.zarr", plan_of(), **along)

    return make


def test_one_value_is_a_frame_of_its_numbers(saved_with):
    saved, stored = saved_with(ids=IDS)
    for name in ("fusion/in/0", "of_bfloat16/out", "of_bool/out", "number/out"):
        frame = saved.to_pandas(name)
        expected = widened(stored[name]).reshape(ROWS, -1)
        assert_same(frame.to_numpy(), expected, name)
    assert (frame.index.name, frame.index.tolist()) == ("ids", IDS)


def test_all_values_are_frames_by_address_with_labels(saved_with):
    labels = np.arange(ROWS) % 3
    weights = {"a": np.ones((ROWS, 2), "float32")}
    saved, stored = saved_with(labels=labels, sample_weight=weights)
    frame = saved.to_pandas()
    assert [*dict.fromkeys(frame.columns.get_level_values(0))] == [
        *saved.plan.known,
        "labels",
        "sample_weight/a",
    ]
    assert_same(frame["labels"].to_numpy(), labels)
    both = np.concatenate([stored["fusion/in/0"], stored["fusion/in/1"]], 3)
    assert_same(frame["again/in/1"].to_numpy(), both.reshape(ROWS, -1))
    assert frame["sample_weight/a"].shape == (ROWS, 2)
    assert frame.index.equals(pandas.RangeIndex(ROWS, name="row"))
    means = frame["number/out"].groupby(frame["labels"]).mean()
    assert means.shape == (3, 1)


def test_a_store_without_rows_is_a_frame_without_rows(saved_with):
    saved, _ = saved_with(labels=np.zeros((0, 2)), rows=0, finish=False)
    frame = saved.to_pandas()
    assert (len(frame), frame["labels"].shape) == (0, (0, 2))


def test_an_unknown_address(saved_with):
    saved, _ = saved_with()
    with pytest.raises(AddressError, match="No value 'fusion/in/7'"):
        saved.to_pandas("fusion/in/7")
