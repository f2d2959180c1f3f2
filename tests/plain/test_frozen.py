"""Stores that earlier versions wrote are opened for ever after."""

from pathlib import Path

import numpy as np
import zarr

import layertap

STORE = Path(__file__).parent / "frozen" / "format_1.zarr"
ROWS = np.arange(120, dtype="float32").reshape(30, 4)


def test_a_store_of_format_1():
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


def test_plain_zarr_opens_it_too():
    group = zarr.open_group(STORE, mode="r")
    np.testing.assert_array_equal(group["first/in/0"][:], ROWS)
    np.testing.assert_array_equal(group["first/in/1"][:], -ROWS)
