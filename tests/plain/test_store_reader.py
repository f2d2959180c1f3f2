"""Reading a store: lazily, as NumPy indexes, and never what was not written."""

import json
import shutil
import threading

import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from layertap.errors import (
    AddressError,
    NotAStoreError,
    StoreCorruptError,
    StoreFormatError,
)
from layertap.store import ArraySpec, Reader, Writer, exists

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


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
    arrays = [ArraySpec(p, v.shape[1:], v.dtype.name) for p, v in values.items()]
    with Writer.create(path, arrays, {}, memory=memory, **options) as writer:
        writer.append(values)
        writer.commit()
        if finish:
            writer.finish()


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A store of 23 rows in blocks of 5, and its values."""
    values = np.arange(23 * 4 * 3, dtype="int32").reshape(23, 4, 3)
    path = tmp_path_factory.mktemp("ramp") / "values.zarr"
    write(path, {"a/b": values}, memory=3 * 5 * 48)
    assert Reader(path).block_rows == 5
    return path, values


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_come_back_bit_for_bit(tmp_path, dtype, compression):
    values = {f"a/{n}": values_of((23, *((2, 3)[:n])), dtype) for n in range(3)}
    write(tmp_path / "v", values, compression=compression)
    reader = Reader(tmp_path / "v")
    assert reader.paths == list(values)
    for path, expected in values.items():
        found = reader.array(path)[:]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])
def test_zarr_python_reads_the_same(tmp_path, dtype, compression):
    values = {"my%20dense/in/0": values_of((23, 2, 3), dtype)}
    values["labels"] = values_of((23,), dtype)
    write(tmp_path / "v", values, compression=compression)
    group = zarr.open_group(tmp_path / "v", mode="r")
    for path, expected in values.items():
        assert group[path].dtype == expected.dtype
        assert group[path][:].tobytes() == expected.tobytes()
    members = {path for path, _ in group.members(max_depth=None)}
    assert members == {"my%20dense", "my%20dense/in", "my%20dense/in/0", "labels"}


def test_attributes_added_with_zarr_python_do_no_harm(tmp_path):
    write(tmp_path / "v", {"a": np.ones([3], "int8")})
    group = zarr.open_group(tmp_path / "v", mode="r+")
    group["a"].attrs["unit"] = "mV"
    group.attrs["title"] = "mine"
    reader = Reader(tmp_path / "v")
    assert reader.array("a").attributes == {"unit": "mV"}
    assert reader.array("a")[:].tolist() == [1, 1, 1]


def test_zeros_are_stored(tmp_path):
    write(tmp_path / "v", {"a": np.zeros([100, 8], "float32")})
    array = Reader(tmp_path / "v").array("a")
    assert array[:].tobytes() == bytes(100 * 8 * 4)


def test_a_store_without_rows(tmp_path):
    arrays = [ArraySpec("a", (2,), "float32"), ArraySpec("b", (), "bool")]
    Writer.create(tmp_path / "v", arrays, {"x": [1, {"y": None}]}).close()
    reader = Reader(tmp_path / "v")
    assert (reader.rows, reader.complete) == (0, False)
    assert reader.attributes == {"x": [1, {"y": None}]}
    assert reader.array("a")[:].shape == (0, 2)
    assert np.asarray(reader.array("b")).dtype == bool
    assert zarr.open_group(tmp_path / "v", mode="r")["a"][:].shape == (0, 2)


def test_what_an_array_says_of_itself(ramp):
    array = Reader(ramp[0]).array("a/b")
    assert array.shape == (23, 4, 3)
    assert array.ndim == 3
    assert array.dtype == np.dtype("int32")
    assert array.nbytes == 23 * 4 * 3 * 4
    assert array.chunk_rows == array.block_rows == 5
    assert len(array) == 23
    assert repr(array) == "<layertap.LazyArray a/b (23, 4, 3) int32>"


def test_an_array_is_what_numpy_takes(ramp):
    path, values = ramp
    array = Reader(path).array("a/b")
    assert np.array_equal(np.asarray(array), values)
    assert np.asarray(array, dtype="float64").dtype == np.float64
    assert np.array_equal(np.stack(list(array)), values)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(array, copy=False)


def check_index(ramp, index):
    path, values = ramp
    expected = values[index]
    found = Reader(path).array("a/b")[index]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


@given(
    index=npst.basic_indices((23, 4, 3), allow_newaxis=False),
)
def test_basic_indices_are_those_of_numpy(ramp, index):
    check_index(ramp, index)


@given(
    rows=st.lists(st.integers(-23, 22), max_size=30).map(lambda r: np.array(r, int))
    | npst.arrays(bool, 23),
    rest=npst.basic_indices((4, 3), allow_newaxis=False, allow_ellipsis=False),
)
def test_arrays_of_rows_are_those_of_numpy(ramp, rows, rest):
    check_index(ramp, (rows, *(rest if isinstance(rest, tuple) else (rest,))))


@pytest.mark.parametrize(
    "index",
    [
        23,
        -24,
        (0, 4),
        (0, 0, 0, 0),
        (..., ...),
        None,
        "a",
        1.0,
        True,
        [23],
        [0.5],
        np.ones(22, bool),
        np.zeros((2, 2), int),
        (slice(None), [0, 1]),
    ],
)
def test_indices_that_are_none(ramp, index):
    with pytest.raises(IndexError):
        Reader(ramp[0]).array("a/b")[index]


def test_unknown_array(ramp):
    with pytest.raises(AddressError, match=r"no array 'a/c'. Did you mean 'a/b'\?"):
        Reader(ramp[0]).array("a/c")


def test_members(tmp_path):
    values = {"a/0": values_of((9, 3), "int8"), "b": values_of((9,), "int64")}
    write(tmp_path / "v", values, compression="zstd", memory=3 * 4 * 11)
    first, second = Reader(tmp_path / "v").members()
    assert (first.path, first.shape, first.dtype) == ("a/0", (9, 3), "int8")
    assert (second.path, second.shape, second.dtype) == ("b", (9,), "int64")
    assert first.compression == "zstd"
    assert first.chunk_rows == 4
    assert first.files == 4  # three shards and zarr.json
    on_disk = sum(file.stat().st_size for file in (tmp_path / "v/a/0").iterdir())
    assert first.bytes_on_disk == on_disk


def test_only_the_chunks_that_are_asked_for_are_read(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    for block in (0, 1, 3, 4):
        (path / f"a/b/c.{block}.0.0").unlink()
    array = Reader(path).array("a/b")
    assert np.array_equal(array[10:15], ramp[1][10:15])
    assert np.array_equal(array[[14, 11]], ramp[1][[14, 11]])


def test_missing_shard(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    (path / "a/b/c.1.0.0").unlink()
    with pytest.raises(StoreCorruptError, match=r"rows 3 to 6 of a/b are damaged or m"):
        Reader(path).array("a/b")[3:7]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_every_flipped_bit_is_found(tmp_path, compression):
    write(tmp_path / "v", {"a": values_of((5, 4), "int16")}, compression=compression)
    shard = tmp_path / "v/a/c.0.0"
    good = shard.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        shard.write_bytes(bad)
        with pytest.raises(StoreCorruptError, match="rows 0 to 4 of a are damaged"):
            Reader(tmp_path / "v").array("a")[:]


@pytest.mark.parametrize("size", [0, 1, 30])
def test_cut_shard(ramp, tmp_path, size):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    with (path / "a/b/c.0.0.0").open("r+b") as shard:
        shard.truncate(size)
    with pytest.raises(StoreCorruptError, match="rows 0 to 0 of a/b are damaged"):
        Reader(path).array("a/b")[0]


def test_paths_that_hold_no_store(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "folder/inside").mkdir(parents=True)
    zarr.create_group(tmp_path / "other")
    for name, found in {
        "nothing": "there is nothing there",
        "nothing/at/all": "there is nothing there",
        "file": "it is a file",
        "folder": "there is no zarr.json there",
        "other": "but other data in Zarr format",
    }.items():
        with pytest.raises(NotAStoreError, match=found):
            Reader(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert not exists(tmp_path / "empty")
    assert not exists(tmp_path / "nothing")
    with pytest.raises(NotAStoreError):
        exists(tmp_path / "folder")


def test_newer_format(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["layertap"] = {"format": 2, "unheard": "of"}
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreFormatError, match=r"format 2; this layertap .* up to 1"):
        Reader(path)


@pytest.mark.parametrize("file", ["zarr.json", "a/b/zarr.json"])
@pytest.mark.parametrize("content", [b"", b'{"zarr_', b"\xff\xfe", b"[]", b"3"])
def test_damaged_metadata(ramp, tmp_path, file, content):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    (path / file).write_bytes(content)
    with pytest.raises(StoreCorruptError, match=f"v/{file} is damaged"):
        Reader(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", None), ("format", "1"), ("complete", "no"), ("arrays", None)],
)
def test_damaged_root(ramp, tmp_path, key, value):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["layertap"][key] = value
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreCorruptError, match=r"v/zarr\.json is damaged"):
        Reader(path)


def test_missing_array(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    shutil.rmtree(path / "a/b")
    with pytest.raises(StoreCorruptError, match=r"a/b/zarr\.json is missing"):
        Reader(path)


def test_complete_store_with_arrays_of_different_lengths(tmp_path):
    write(tmp_path / "v", {"a": np.ones(3), "b": np.ones(3)})
    file = tmp_path / "v/b/zarr.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps(metadata | {"shape": [2]}))
    with pytest.raises(StoreCorruptError, match="its arrays have 2 and 3 rows"):
        Reader(tmp_path / "v")


def test_a_reader_keeps_its_rows_while_the_writer_goes_on(tmp_path):
    rows = np.arange(40, dtype="float32").reshape(20, 2)
    arrays = [ArraySpec("a", (2,), "float32")]
    with Writer.create(tmp_path / "v", arrays, {}, memory=3 * 8 * 8) as writer:
        readers = []
        for row in range(20):
            writer.append({"a": rows[row : row + 1]})
            writer.commit()
            readers.append(Reader(tmp_path / "v"))
            for count, reader in enumerate(readers, 1):
                assert reader.rows == count
                assert np.array_equal(reader.array("a")[:], rows[:count])


def test_readers_at_any_time_see_whole_rows(tmp_path):
    rows = np.arange(600, dtype="int64")
    arrays = [ArraySpec(path, (), "int64") for path in ("a", "b")]
    writer = Writer.create(tmp_path / "v", arrays, {}, memory=3 * 16 * 16)

    def write_all():
        with writer:
            for start in range(0, 600, 3):
                part = rows[start : start + 3]
                writer.append({"a": part, "b": -part})
                if start % 5 == 0:
                    writer.commit()
            writer.finish()

    thread = threading.Thread(target=write_all)
    thread.start()
    seen = [0]
    while not (reader := Reader(tmp_path / "v")).complete:
        seen.append(reader.rows)
        assert np.array_equal(reader.array("a")[:], rows[: reader.rows])
        assert np.array_equal(reader.array("b")[:], -rows[: reader.rows])
        assert thread.is_alive() or Reader(tmp_path / "v").complete
    thread.join()
    assert seen == sorted(seen)
    assert reader.rows == 600
