"""Reading a store: lazily, by NumPy's indexes, and only written values."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorstore
import zarr
import zstandard
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from layertap.errors import (
    AddressError,
    NotAStoreError,
    StoreCorruptError,
    StoreFormatError,
)
from layertap.store.format import digests
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import read_root
from layertap.store.format.zarr_json import to_json
from layertap.store.location import exists
from layertap.store.reading.reader import Reader
from layertap.store.storage.files import LocalStorage
from tests.support.faults import few_files
from tests.support.store_rows import values_of, write


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """A store of 23 rows in blocks of 5, and its values."""
    values = np.arange(23 * 4 * 3, dtype="int32").reshape(23, 4, 3)
    path = tmp_path_factory.mktemp("ramp") / "values.zarr"
    write(path, {"a/b": values}, memory=3 * 5 * 48)
    assert Reader(path).block_rows == 5
    return path, values


def test_attributes_added_with_zarr_python_are_accepted(tmp_path):
    write(tmp_path / "v", {"a": np.ones([3], "int8")})
    group = zarr.open_group(tmp_path / "v", mode="r+")
    group["a"].attrs["unit"] = "mV"
    group.attrs["title"] = "mine"
    reader = Reader(tmp_path / "v")
    assert reader.array("a").attributes == {"unit": "mV"}
    assert reader.array("a")[:].tolist() == [1, 1, 1]


def test_properties_of_an_array(ramp):
    array = Reader(ramp[0]).array("a/b")
    assert array.shape == (23, 4, 3)
    assert array.ndim == 3
    assert array.dtype == np.dtype("int32")
    assert array.nbytes == 23 * 4 * 3 * 4
    assert array.chunk_rows == array.block_rows == 5
    assert len(array) == 23
    assert repr(array) == "<layertap.LazyArray a/b (23, 4, 3) int32>"


def test_numpy_accepts_an_array(ramp):
    path, values = ramp
    array = Reader(path).array("a/b")
    assert np.array_equal(np.asarray(array), values)
    assert np.asarray(array, dtype="float64").dtype == np.float64
    assert np.array_equal(np.stack(list(array)), values)
    with pytest.raises(ValueError, match="Reading it makes a copy"):
        np.array(array, copy=False)


def check_index(ramp, index):
    path, values = ramp
    expected = values[index]
    part = Reader(path).array("a/b")[index]
    assert (part.dtype, part.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(part, expected)


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


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize(("dtype", "shape"), [("uint8", (3,)), ("float64", (5, 7))])
def test_any_rows_of_many_chunks(tmp_path, dtype, shape, compression):
    """Chunks of uneven rows in many blocks, some of them not full."""
    random = np.random.default_rng(0)
    values = random.integers(0, 250, (5003, *shape)).astype(dtype)
    memory = 3 * 1000 * values[0].nbytes
    write(tmp_path / "v", {"a": values}, memory=memory, compression=compression)
    array = Reader(tmp_path / "v").array("a")
    assert len(values) // array.block_rows >= 5 or dtype == "uint8"
    order = random.permutation(len(values))
    assert np.array_equal(array[order], values[order])
    for step in (1, 2, 7, -1, -3):
        assert np.array_equal(array[3:4990:step], values[3:4990:step])
    for start in (0, 1, 998, 999, 1000, 1001, 4995):
        assert np.array_equal(array[start : start + 6], values[start : start + 6])
    assert np.array_equal(array[order[:50], 1:3], values[order[:50], 1:3])


def test_large_rows_in_any_order(tmp_path):
    """Each is copied on its own."""
    values = np.random.default_rng(0).standard_normal((40, 2**17)).astype("float32")
    write(tmp_path / "v", {"a": values}, memory=3 * 8 * 2**19)
    array = Reader(tmp_path / "v").array("a")
    rows = np.array([39, 0, 0, 17, 8, 7])
    assert np.array_equal(array[rows], values[rows])
    assert np.array_equal(array[5:30:6], values[5:30:6])


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_chunks_may_lie_anywhere_in_a_shard(tmp_path, compression):
    """TensorStore wrote these in its own order, and some of them twice."""
    values = np.arange(64 * 2**14, dtype="float32").reshape(64, 2**14)
    path = tmp_path / "v"
    write(path, {"a": values}, memory=3 * 64 * 2**16, compression=compression)
    metadata = json.loads((path / "a/zarr.json").read_text())
    (path / "a/c.0.0").unlink()
    kvstore = {"driver": "file", "path": f"{path}/a/"}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    theirs = tensorstore.open(spec, open=True, assume_metadata=True).result()
    for part in (slice(32, 64), slice(0, 16), slice(16, 48)):
        theirs[part].write(values[part]).result()
    array = Reader(path).array("a")
    assert np.array_equal(array[:], values)
    assert np.array_equal(array[[50, 3, 17]], values[[50, 3, 17]])


def test_chunks_in_another_order_are_read_in_order(tmp_path):
    values = np.arange(64 * 2**14, dtype="float32").reshape(64, 2**14)
    path = tmp_path / "v"
    write(path, {"a": values}, memory=3 * 64 * 2**16)
    (layout,) = read_layouts(LocalStorage(path), read_root(LocalStorage(path)))
    assert layout.chunks > 4
    shard = path / "a/c.0.0"
    content = bytearray(shard.read_bytes())
    start = len(content) - 16 * layout.chunks - 4
    index = np.frombuffer(content[start:-4], "<u8").reshape(-1, 2).copy()
    (first, size), (second, _) = index[1].tolist(), index[3].tolist()
    one, other = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = other, one
    index[[1, 3]] = index[[3, 1]]
    content[start:-4] = index.tobytes()
    content[-4:] = crc32c(index.tobytes()).to_bytes(4, "little")
    shard.write_bytes(content)
    array = Reader(path).array("a")
    assert np.array_equal(array[:], values)
    assert np.array_equal(array[::-3], values[::-3])
    assert not any(error for _, error in array.check())


BOMB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
try:
    Reader(sys.argv[1]).array("a")[:]
except StoreError as error:
    print(error)
"""


def test_a_chunk_that_claims_to_be_huge_takes_no_memory(tmp_path):
    """Its checksum and the index are right."""
    path = tmp_path / "v"
    write(path, {"a": np.zeros(2**22, "uint8")}, memory=2**30, compression="zstd")
    (layout,) = read_layouts(LocalStorage(path), read_root(LocalStorage(path)))
    huge = zstandard.ZstdCompressor().compress(bytes(2**30))
    content, index = b"", []
    for chunk in range(layout.chunks):
        frame = huge if not chunk else b"x"
        index.append((len(content), len(frame) + 4))
        content += frame + crc32c(frame).to_bytes(4, "little")
    table = np.array(index, "<u8").tobytes()
    content += table + crc32c(table).to_bytes(4, "little")
    (path / "a/c.0").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, path], capture_output=True, text=True, check=True
    )
    assert "claims to have 1,073,741,824 bytes" in done.stdout


def test_a_reader_can_be_pickled_and_copied(ramp):
    path, values = ramp
    reader = Reader(path)
    assert np.array_equal(reader.array("a/b")[3:9], values[3:9])
    other = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(other.array("a/b")[:], values)
    assert np.array_equal(copy.deepcopy(reader).array("a/b")[::-1], values[::-1])


TRUNCATED = """
import os, sys
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
array = Reader(sys.argv[1]).array("a")
print(float(array[0].sum()))
os.truncate(sys.argv[1] + "/a/c.0.0", 2**18)
for rows in (slice(15, 16), [15, 14]):
    try:
        print(array[rows])
    except StoreError as error:
        print(error)
"""


def test_a_mapped_file_that_is_truncated_does_not_end_the_process(tmp_path):
    values = np.ones((16, 2**16), "float32")
    write(tmp_path / "v", {"a": values}, memory=2**30)
    done = subprocess.run(
        [sys.executable, "-c", TRUNCATED, tmp_path / "v"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    first, *messages = done.stdout.splitlines()
    assert float(first) == 2**16
    assert len(messages) == 2
    for message in messages:
        assert "v/a/c.0.0 can't be read: Input/output error" in message


def test_more_files_than_may_be_open(tmp_path):
    """Shards that were unused for longest are closed."""
    values = np.arange(40, dtype="int32")
    write(tmp_path / "v", {"a": values}, memory=3 * 4)
    array = Reader(tmp_path / "v").array("a")
    assert array.block_rows == 1
    with few_files(3):
        assert np.array_equal(array[::-1], values[::-1])
        assert np.array_equal(array[:], values)


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
def test_invalid_indices(ramp, index):
    with pytest.raises(IndexError):
        Reader(ramp[0]).array("a/b")[index]


def test_unknown_array(ramp):
    with pytest.raises(AddressError, match=r"no array 'a/c'. Did you mean 'a/b'\?"):
        Reader(ramp[0]).array("a/c")


def test_properties_that_need_no_values(tmp_path):
    values = {"a/0": values_of((9, 3), "int8"), "b": values_of((9,), "int64")}
    write(tmp_path / "v", values, compression="zstd", memory=3 * 4 * 11)
    reader = Reader(tmp_path / "v")
    first, second = map(reader.array, reader.paths)
    assert (first.path, first.shape, first.dtype) == ("a/0", (9, 3), "int8")
    assert (second.path, second.shape, second.dtype) == ("b", (9,), "int64")
    assert first.compression == "zstd"
    assert first.chunk_rows == 4
    size = reader.sizes()["a/0"]
    assert size.files == 4  # three shards and zarr.json
    on_disk = sum(file.stat().st_size for file in (tmp_path / "v/a/0").iterdir())
    assert size.bytes == on_disk


def test_only_the_requested_chunks_are_read(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    for block in (0, 1, 3, 4):
        (path / f"a/b/c.{block}.0.0").unlink()
    array = Reader(path).array("a/b")
    assert np.array_equal(array[10:15], ramp[1][10:15])
    assert np.array_equal(array[[14, 11]], ramp[1][[14, 11]])


def test_paths_without_a_store(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "folder/inside").mkdir(parents=True)
    zarr.create_group(tmp_path / "other")
    for name, problem in {
        "nothing": "there is nothing there",
        "nothing/at/all": "there is nothing there",
        "file": "it is a file",
        "folder": "there is no zarr.json there",
        "other": "it holds other data in Zarr format",
    }.items():
        with pytest.raises(NotAStoreError, match=problem):
            Reader(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert not exists(tmp_path / "empty")
    assert not exists(tmp_path / "nothing")
    with pytest.raises(NotAStoreError):
        exists(tmp_path / "folder")


def test_newer_format(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["layertap"] = {"format": 3, "unheard": "of"}
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(
        StoreFormatError, match=r"Expected format 2\. Received format 3\."
    ):
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
    [
        *(("format", value) for value in (None, "2", 0, 1, 2.5)),
        *(("store", value) for value in (None, "", 7)),
        *(("complete", value) for value in (None, "no", 1, False)),
        *(("rows", value) for value in (None, -1, "23", 23.0, True)),
        *(("arrays", value) for value in (None, "a/b", ["a/b", 3], ["../b"], ["/b"])),
        ("writer", "me"),
        ("writer", {"process": 1, "host": "a"}),
        ("writer", {"process": 1, "host": "a", "since": "\x1b[2J"}),
    ],
)
def test_invalid_root_with_a_right_digest(ramp, tmp_path, key, value):
    """Someone made it so on purpose."""
    path = shutil.copytree(ramp[0], tmp_path / "v")
    root = json.loads((path / "zarr.json").read_text())
    ours = root["attributes"]["layertap"]
    ours[key] = value
    del ours["seal"]
    ours["seal"] = digests.digest_json(ours)
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreCorruptError, match=r"v/zarr\.json is damaged"):
        Reader(path)


def test_root_with_a_wrong_digest(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"rows": 23', '"rows": 22'))
    with pytest.raises(StoreCorruptError, match=r"v/zarr\.json is damaged"):
        Reader(path)


def test_missing_array(ramp, tmp_path):
    path = shutil.copytree(ramp[0], tmp_path / "v")
    shutil.rmtree(path / "a/b")
    with pytest.raises(StoreCorruptError, match=r"a/b/zarr\.json is missing"):
        Reader(path)


def test_complete_store_with_arrays_of_different_lengths(tmp_path):
    path = tmp_path / "v"
    write(path, {"a": np.ones(3), "b": np.ones(3)})
    layout = read_layouts(LocalStorage(path), read_root(LocalStorage(path)))[1]
    shorter = to_json(replace(layout, rows=2).metadata())
    (path / "b/zarr.json").write_bytes(shorter)
    with pytest.raises(StoreCorruptError, match=r"b/zarr\.json has 2 rows"):
        Reader(path)
