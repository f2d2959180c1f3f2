"""Rows of a small store, on any storage, and assertions about them."""

import json
from typing import Protocol

import ml_dtypes
import numpy as np
import zarr

from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.base import Reopening
from layertap.store.writing.writer import Writer


class Place(Protocol):
    """Where a store is, and what is stored there, byte for byte.

    Args:
        path: What `Writer.create` and `Reader` take.
    """

    path: object

    def names(self):
        """Returns the names of all that is stored, as below the root: `a/zarr.json`."""

    def read(self, name):
        """Returns what is stored under a name."""

    def write(self, name, content):
        """Stores bytes under a name, in place of what was there."""

    def delete(self, name):
        """Deletes what is stored under a name."""

    def copy(self):
        """Returns another place where the same is stored."""

    def local(self):
        """Gives, in a `with` statement, a folder with the same, for other readers."""


DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)
ARRAYS = [
    ArraySpec("join/in/0", (5,), "float32", {"made_by": "left"}),
    ArraySpec("join/in/1", (2, 3), "int8"),
    ArraySpec("labels", (), "int64"),
]
ROW_BYTES = 20 + 6 + 8


def rows_between(start, stop):
    """The rows from one number up to another, of all of `ARRAYS`."""
    rows = np.arange(start, stop)
    cells = rows[:, None, None] + np.arange(6).reshape(2, 3)
    return {
        "join/in/0": np.sin(rows[:, None] * 5.0 + np.arange(5)).astype("float32"),
        "join/in/1": (cells % 11).astype("int8"),
        "labels": rows % 7,
    }


def values_of(shape, dtype):
    """Values of every kind a dtype has: zeros, ones, extremes, fractions."""
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    bits = np.random.default_rng(7).bytes(int(np.prod(shape)) * numpy_dtype.itemsize)
    if dtype == "bool":
        return (np.frombuffer(bits, "uint8") % 2 == 0).reshape(shape)
    values = np.frombuffer(bits, numpy_dtype).reshape(shape).copy()
    values[: shape[0] // 2] = 0
    return values


def write(path, values, *, memory=2000, finish=True, **options):
    """Makes a store of some values."""
    arrays = [ArraySpec(p, v.shape[1:], v.dtype.name) for p, v in values.items()]
    with Writer.create(path, arrays, {}, memory=memory, **options) as writer:
        writer.append(values)
        writer.commit()
        if finish:
            writer.finish()


def reopening_of(path):
    """How a complete store with such attributes is reopened; None if it is not."""
    reader = Reader(path)
    return Reopening(reader.store, reader.rows, {"x": 1}) if reader.complete else None


def assert_holds(place, rows):
    """Asserts that a store shows the first rows, here and in zarr-python."""
    reader = Reader(place.path)
    assert reader.rows == rows
    with place.local() as folder:
        group = zarr.open_group(folder, mode="r")
        for name, expected in rows_between(0, rows).items():
            assert np.array_equal(reader.array(name)[:], expected)
            assert np.array_equal(group[name][:], expected)


def complaints(path):
    """What `check` finds wrong in a store: by array and first row, the message."""
    reader = Reader(path)
    return {
        (name, rows[0]): str(error)
        for name in reader.paths
        for rows, error in reader.array(name).check()
        if error is not None
    }


def contents_of(place):
    """All that is stored in a place, without what no two stores have the same.

    That is the random id of the store, the mark of its writer in an object store, and
    the seals, which depend on them. All else is left as it is, byte for byte.
    """
    return {name: _without_id(name, place.read(name)) for name in place.names()}


def _without_id(name, content):
    if name.rpartition("/")[2] != "zarr.json":
        return content
    ours = json.loads(content)["attributes"].get("layertap", {})
    for own in ("store", "seal", "writer"):
        if own in ours:
            content = content.replace(f'"{own}": "{ours[own]}"'.encode(), own.encode())
    return content
