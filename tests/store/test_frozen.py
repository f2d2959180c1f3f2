"""Stores that earlier versions wrote are opened for ever after."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import layertap
from layertap.errors import StoreError
from layertap.store import Reader, Writer

FROZEN = Path(__file__).parent / "frozen"
STORE = FROZEN / "format_1.zarr"
both = pytest.mark.parametrize("store", [STORE, FROZEN / "format_2.zarr"])
ROWS = np.arange(120, dtype="float32").reshape(30, 4)


@both
def test_stores_of_all_formats(store):
    saved = layertap.open(store)
    assert saved.complete
    assert saved.rows == 30
    assert list(saved) == [
        f"{join}/in/{i}" for join in ("first", "second") for i in (0, 1)
    ]
    expected = {
        "first/in/0": ROWS,
        "first/in/1": -ROWS,
        "second/in/0": np.concatenate([ROWS, -ROWS], axis=1),
        "second/in/1": -ROWS,
    }
    for address, values in expected.items():
        np.testing.assert_array_equal(saved[address][:], values)
        np.testing.assert_array_equal(saved[address][7, 1:3], values[7, 1:3])
        np.testing.assert_array_equal(saved[address][-3::2], values[-3::2])
        assert saved[address][:].dtype == "float32"
    assert list(saved.before("second")) == ["first", "right"]
    assert saved.plan.join("second").branches[0].alias_of == "first/out"
    np.testing.assert_array_equal(saved.labels[:], np.arange(30) ** 2)
    assert list(saved.ids) == [f"row-{i}" for i in range(30)]
    assert layertap.verify(saved)


@both
def test_plain_zarr_opens_them_too(store):
    group = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(group["first/in/0"][:], ROWS)
    np.testing.assert_array_equal(group["first/in/1"][:], -ROWS)


def test_its_rows_can_be_checked_by_their_checksums(tmp_path):
    path = shutil.copytree(STORE, tmp_path / "v")
    assert [error for _, error in Reader(path).array("labels").check()] == [None]
    shard = path / "labels/c.0"
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    ((rows, error),) = Reader(path).array("labels").check()
    assert rows == range(30)
    assert "labels/c.0 with rows 0 to 29 of labels is damaged" in str(error)


def test_a_store_of_format_1_is_not_gone_on_with(tmp_path):
    path = shutil.copytree(STORE, tmp_path / "v")
    with pytest.raises(StoreError, match="is complete: no rows can be added"):
        Writer.resume(path)
    root = (path / "zarr.json").read_text()
    assert root.count('"complete": true') == 1
    (path / "zarr.json").write_text(
        root.replace('"complete": true', '"complete": false')
    )
    before = files_of(path)
    reader = Reader(path)
    assert (reader.rows, reader.complete) == (30, False)
    for _ in range(2):  # Nor is the store locked after that.
        with pytest.raises(StoreError, match="has store format 1, which is only read"):
            Writer.resume(path)
    assert files_of(path) == before


def files_of(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
