"""Files of the data that change during a save: the store is not complete."""

import os
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
import zarr
from pyarrow import parquet

import layertap
from layertap.errors import DataError, OtherRunError
from tests.support.resumes import SMALL, StoppedError, numbers, two_branches

pytestmark = pytest.mark.one_backend

X = numbers()


def write_npy(path, x):
    """Writes into the file that is there, as a program does that has it open."""
    if path.exists():
        np.lib.format.open_memmap(path, mode="r+")[:] = x
    else:
        np.save(path, x)


def replace_npy(path, x):
    np.save(path.with_name("new.npy"), x)
    path.with_name("new.npy").replace(path)


def write_parquet(path, x):
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(x.ravel(), 8)})
    parquet.write_table(table, path.with_name("new"))
    path.with_name("new").replace(path)


def write_zarr(path, x):
    zarr.create_array(path, data=x, chunks=(1000, 8), overwrite=True)


KINDS = [
    ("x.npy", write_npy),
    ("x.npy", replace_npy),
    ("x.parquet", write_parquet),
    ("x.zarr", write_zarr),
]


@pytest.mark.parametrize(("name", "write"), KINDS)
def test_a_store_of_two_versions_of_a_file_is_not_complete(tmp_path, name, write):
    file, path = tmp_path / name, tmp_path / "v.zarr"
    write(file, X)
    other = X.copy()
    other[5:] += 1

    def rewrite(rows, written):
        if rows and not rewrite.done:
            rewrite.done = True
            write(file, other)

    rewrite.done = False
    with pytest.raises(DataError, match=rf"{name}.* was changed while it was read"):
        layertap.save(two_branches(), file, path, progress=rewrite, memory=SMALL)
    assert rewrite.done
    assert not layertap.open(path).complete
    with pytest.raises(OtherRunError, match="inputs of row 5 are not those"):
        layertap.save(two_branches(), file, path, memory=SMALL)
    saved = layertap.save(two_branches(), file, path, memory=SMALL, overwrite=True)
    assert saved.complete
    assert layertap.verify(saved, two_branches(), other, rows=None).other_inputs == 0


@pytest.mark.parametrize("complete", [True, False])
def test_a_file_that_changes_when_a_save_goes_on(tmp_path, complete):
    """After a complete store of fewer rows, or one that stopped."""
    file, path = tmp_path / "x.npy", tmp_path / "v.zarr"
    np.save(file, X[:650] if complete else X)
    with suppress(StoppedError):
        layertap.save(
            two_branches(),
            file,
            path,
            memory=SMALL,
            progress=None if complete else stops,
        )
    replace_npy(file, X)

    def rewrite(rows, written):
        np.lib.format.open_memmap(file, mode="r+")[990:] += 1

    with pytest.raises(DataError, match=r"x\.npy was changed while it was read"):
        layertap.save(two_branches(), file, path, memory=SMALL, progress=rewrite)
    saved = layertap.open(path)
    assert not saved.complete
    assert saved.rows >= 640


def stops(rows, written):
    if rows >= 640:
        raise StoppedError


def test_a_file_that_is_gone_at_the_end(tmp_path):
    file, path = tmp_path / "x.npy", tmp_path / "v.zarr"
    np.save(file, X)
    with pytest.raises(DataError, match=r"x\.npy was changed .* Received no such file"):
        layertap.save(
            two_branches(), file, path, progress=lambda *_: file.unlink(missing_ok=True)
        )
    assert not layertap.open(path).complete


def test_files_that_stay_and_arrays_in_memory_may_be_saved(tmp_path):
    """Also arrays of a user's own that are read from a file."""
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for number, data in enumerate((mapped[:64], {"x": X[:64]}, tmp_path / "x.npz")):
        path = tmp_path / f"{number}.zarr"
        assert layertap.save(two_branches(), data, path).complete
    os.utime(tmp_path / "x.npy")

    def touch(rows, written):
        os.utime(tmp_path / "x.npy")

    with pytest.raises(DataError, match=r"x\.npy was changed"):
        layertap.save(two_branches(), mapped, tmp_path / "v.zarr", progress=touch)
