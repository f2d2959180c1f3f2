"""Data sets of xarray are lazy, and hold what a store holds."""

import numpy as np
import pytest
import xarray
import zarr

from layertap.store.reading.array import LazyArray
from tests.support.export_stores import IDS, ROWS, assert_same, plan_of, store

LABELS = np.arange(ROWS) % 3
# Without numbers that only layertap, TensorStore and ml_dtypes know.
KNOWN = ["float16", "float32", "int64", "bool"]


@pytest.fixture
def made(tmp_path):
    along = {"ids": IDS, "labels": LABELS, "class_names": ["a", "b", "c"]}
    return store(tmp_path / "values.zarr", plan_of(KNOWN), **along)


@pytest.fixture
def saved(made):
    return made[0]


def test_variables_have_names_dimensions_and_coordinates(saved):
    values = saved.to_xarray()
    assert [*values.data_vars] == saved.plan.known
    first = values["fusion/in/0"]
    assert first.dims == ("row", *(f"fusion/in/0_{axis}" for axis in (1, 2, 3)))
    # A gradient has the dimensions of its value.
    assert values["fusion/in_gradient/0"].dims == first.dims
    assert (first * values["fusion/in_gradient/0"]).shape == first.shape
    assert first.attrs == {"made_by": "look"}
    assert values.coords["ids"].values.tolist() == IDS
    assert values.coords["labels"].values.tolist() == LABELS.tolist()
    assert values.coords["labels"].attrs == {"class_names": ["a", "b", "c"]}
    assert values.attrs["model"] == "zoo"
    counts = values["again/in/0"].groupby("labels").map(np.ones_like).sum("row")
    assert counts.values[0, 0, 0] == ROWS


@pytest.mark.parametrize(
    "index",
    [
        np.s_[:],
        np.s_[3],
        np.s_[-1],
        np.s_[4:40:5],
        np.s_[::-1],
        np.s_[[7, 2, 2]],
        np.s_[5, 1],
        np.s_[2:9, :, 0, [3, 1]],
        np.s_[[4, 1], [0, 2], 1],
        np.s_[..., 2],
        np.s_[3, ..., ::2],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["fusion/in/0", "again/in/1"])
def test_indexing_is_that_of_xarray(saved, name, index):
    array = saved[name][:]
    expected = xarray.DataArray(array, dims=saved.to_xarray()[name].dims)
    assert_same(saved.to_xarray()[name][index].values, expected[index].values)


def test_only_the_wanted_rows_are_read(saved, monkeypatch):
    read = []
    whole = LazyArray.__getitem__

    def watched(self, index):
        read.append((self.path, index))
        return whole(self, index)

    monkeypatch.setattr(LazyArray, "__getitem__", watched)
    values = saved.to_xarray()
    assert {path for path, _ in read} == {"ids"}
    read.clear()
    some = values["fusion/in/0"].isel(row=slice(10, 12)).load()
    assert some.shape[0] == 2
    # Labels are small coordinates, of the same rows.
    assert sorted(read) == [(n, slice(10, 12, 1)) for n in ("fusion/in/0", "labels")]


def test_an_assignment_changes_a_copy(saved):
    values = saved.to_xarray()
    values["fusion/in/0"][0] = 5
    assert (values["fusion/in/0"][0] == 5).all()
    assert_same(saved.to_xarray()["fusion/in/0"].values, saved["fusion/in/0"][:])


def test_the_store_itself_opens_in_xarray_and_zarr(made):
    saved, stored = made
    tree = xarray.open_datatree(saved.path, engine="zarr", consolidated=False)
    assert_same(tree["fusion/in/0"].values, stored["fusion/in/0"])
    assert tree["fusion/in/0"].dims[0] == "row"
    group = zarr.open_group(saved.path, mode="r")
    assert_same(group["of_float16/out"][:], stored["of_float16/out"])
