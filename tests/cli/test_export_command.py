"""The command that exports a store."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import layertap
from layertap.core import tables
from tests.support.command_files import fails, succeeds, typed
from tests.support.export_stores import IDS, plan_of, store

pytestmark = pytest.mark.one_backend


@pytest.fixture
def path(tmp_path):
    store(tmp_path / "v.zarr", ids=IDS)
    return tmp_path / "v.zarr"


def test_a_store_is_exported_as_by_the_function(path, tmp_path):
    values = len(layertap.open(path).plan.known)
    for suffix in (".parquet", ".npz", ".safetensors", ".tsv"):
        out, other = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
        line = succeeds("export", path, out)
        size = tables.size(out.stat().st_size)
        assert line == f"{out}: 50 rows of {values} values, {size}.\n"
        layertap.export(path, other)
        assert out.read_bytes() == other.read_bytes()


def test_addresses_are_selected(path, tmp_path):
    out = tmp_path / "x.npz"
    words = ("--address", "of_int*/out", "--address", "number/out", "--quiet")
    assert "50 rows of 5 values" in succeeds("export", path, out, *words)
    with np.load(out) as archive:
        values = [name for name in archive if name.endswith("/out")]
    assert values == [*(f"of_int{n}/out" for n in (8, 16, 32, 64)), "number/out"]
    assert "No address" in fails(
        2, "export", path, tmp_path / "y.npz", "--address", "a"
    )


def test_a_file_is_replaced_on_request(path, tmp_path):
    out = tmp_path / "x.parquet"
    out.write_text("mine")
    line = fails(2, "export", path, out)
    assert line == f"Error: {out} exists. Pass --overwrite or another path.\n"
    assert out.read_text() == "mine"
    succeeds("export", path, out, "--overwrite")
    assert pq.read_metadata(out).num_rows == 50


def test_a_store_that_is_not_complete_is_exported_with_a_word(tmp_path):
    store(tmp_path / "v.zarr", rows=7, finish=False)
    line = succeeds("export", tmp_path / "v.zarr", tmp_path / "x.npz")
    assert "7 rows" in line
    assert line.endswith(" The store is not complete.\n")


def test_errors_are_lines(path, tmp_path):
    assert "Expected a suffix: .parquet" in fails(2, "export", path, tmp_path / "x.csv")
    assert "gone.zarr" in fails(2, "export", tmp_path / "gone.zarr", tmp_path / "x.npz")


def test_complex_numbers_are_refused_in_the_words_of_the_command(tmp_path):
    store(tmp_path / "v.zarr", plan_of(["complex64"]))
    line = fails(2, "export", tmp_path / "v.zarr", tmp_path / "x.parquet")
    assert "of_complex64/out can't be exported to Parquet" in line
    assert "select other values: --address …" in line


def test_help_names_its_formats():
    shown = typed("export", "--help").stdout
    for suffix in (".parquet", ".h5", ".npz", ".safetensors", ".tsv"):
        assert f"OUT{suffix}" in shown
