"""A store that an earlier version wrote can still be opened."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import layertap
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer

STORE = Path(__file__).parent / "frozen/format_2.zarr"
ROWS = np.arange(120, dtype="float32").reshape(30, 4)


def test_layertap_opens_it():
    saved = layertap.open(STORE)
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


def test_zarr_python_opens_it():
    group = zarr.open_group(STORE, mode="r")
    np.testing.assert_array_equal(group["first/in/0"][:], ROWS)
    np.testing.assert_array_equal(group["first/in/1"][:], -ROWS)


def test_checksums_detect_a_flipped_bit(tmp_path):
    path = shutil.copytree(STORE, tmp_path / "v")
    assert [error for _, error in Reader(path).array("labels").check()] == [None]
    shard = path / "labels/c.0"
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    ((rows, error),) = Reader(path).array("labels").check()
    assert rows == range(30)
    assert "labels/c.0 with rows 0 to 29 of labels is damaged" in str(error)


def test_a_complete_store_is_not_resumed(tmp_path):
    path = shutil.copytree(STORE, tmp_path / "v")
    with pytest.raises(StoreError, match="is complete: no rows can be added"):
        Writer.resume(path)
