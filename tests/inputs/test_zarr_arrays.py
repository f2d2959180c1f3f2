"""Zarr arrays as data: the numbers that others wrote, read when they are sliced."""

import json
import subprocess
import sys

import boto3
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from layertap.errors import DataError
from layertap.inputs.lazy_array import LazyRows
from layertap.inputs.zarr_arrays import ZarrArray, is_zarr, open_zarr
from layertap.store.reading.reader import Reader
from tests.support.faulty_store import begin, go_on

ROWS = 23
X = np.random.default_rng(0).normal(size=(ROWS, 3, 2)).astype("float32")


def write(path, array, version=3, **options):
    """Writes an array with zarr-python."""
    options = {"chunks": (4, *array.shape[1:]), **options}
    made = zarr.create_array(
        path, shape=array.shape, dtype=array.dtype, zarr_format=version, **options
    )
    made[:] = array
    return str(path)


def group(path, version, **arrays):
    made = zarr.open_group(path, mode="w", zarr_format=version)
    for name, array in arrays.items():
        made.create_array(name, data=array, chunks=(4, *array.shape[1:]))
    return str(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Arrays with the same values, written in several ways."""
    folder = tmp_path_factory.mktemp("zarr")
    return [
        write(folder / "2.zarr", X, 2),
        write(folder / "2_fortran.zarr", X, 2, order="F"),
        write(folder / "2_big.zarr", X.astype(">f4"), 2, compressors=None),
        write(folder / "3.zarr", X),
        write(folder / "3_cut.zarr", X, chunks=(5, 2, 1)),
        write(folder / "3_sharded.zarr", X, chunks=(2, 3, 2), shards=(8, 3, 2)),
    ]


@settings(derandomize=True, max_examples=50)
@given(
    start=st.none() | st.integers(-30, 30),
    stop=st.none() | st.integers(-30, 30),
    step=st.sampled_from([None, 1, 3, -1, -4]),
)
def test_slices_equal_those_of_the_array(written, start, stop, step):
    part = slice(start, stop, step)
    for path in written:
        arrays = open_zarr(path, ())
        assert isinstance(arrays, LazyRows)
        assert (len(arrays), arrays.shape, arrays.dtype) == (ROWS, X.shape, X.dtype)
        np.testing.assert_array_equal(arrays[part], X[part])
        assert type(arrays[part]) is np.ndarray


def test_a_complete_array_and_a_url(written):
    for path in (*written, f"file://{written[3]}", f"file://{written[0]}/"):
        assert is_zarr(path)
        np.testing.assert_array_equal(np.asarray(open_zarr(path, ())), X)
        assert np.asarray(open_zarr(path, ()), "float64").dtype == "float64"


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float64"])
@pytest.mark.parametrize("version", [2, 3])
def test_dtypes(tmp_path, dtype, version):
    array = np.arange(10).astype(dtype)
    arrays = open_zarr(write(tmp_path / "x.zarr", array, version), ())
    assert arrays.dtype == array.dtype
    np.testing.assert_array_equal(arrays[:], array)


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_has_arrays_by_name(tmp_path, version):
    ids = np.arange(ROWS)
    path = group(tmp_path / "g.zarr", version, x=X, ids=ids, b=X[:, 0], more=ids)
    zarr.open_group(path, mode="a").create_group("inside").create_array("c", data=ids)
    assert is_zarr(path)
    arrays = open_zarr(path, ["x", "b"], ["labels", "ids"])
    assert sorted(arrays) == ["b", "ids", "more", "x"]
    np.testing.assert_array_equal(arrays["x"][3:9], X[3:9])
    np.testing.assert_array_equal(arrays["b"][20:], X[20:, 0])
    for inputs in ((), ["x", "misspelt"]):
        assert sorted(open_zarr(path, inputs, ["ids"])) == ["b", "ids", "more", "x"]


def test_only_the_chunks_of_a_slice_are_read(tmp_path):
    path = write(tmp_path / "x.zarr", X)
    chunk = tmp_path / "x.zarr" / "c" / "5" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    arrays = open_zarr(path, ())
    np.testing.assert_array_equal(arrays[:20], X[:20])
    with pytest.raises(DataError, match=r"Rows 19 to 20 of .*x\.zarr can't be read"):
        arrays[19:21]


@pytest.fixture
def bucket(monkeypatch):
    """An S3 on this machine, with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


def test_a_group_in_a_cloud(bucket, tmp_path):
    group(tmp_path / "g.zarr", 3, x=X, ids=np.arange(ROWS))
    for file in tmp_path.rglob("*"):
        if file.is_file():
            bucket.upload_file(file, "bucket", str(file.relative_to(tmp_path)))
    for inputs in (["x"], []):
        arrays = open_zarr("s3://bucket/g.zarr", inputs, ["ids"])
        assert sorted(arrays) == ["ids", "x"]
        np.testing.assert_array_equal(arrays["x"][3:9], X[3:9])
    for source in ("s3://bucket/gone.zarr", "s3://other/g.zarr"):
        with pytest.raises(DataError, match=rf"{source} is not a Zarr array or group"):
            open_zarr(source, ["x"])


def test_changed_metadata_in_a_cloud_are_another_version(bucket, tmp_path):
    def upload(rows):
        group(tmp_path / "g.zarr", 3, x=X[:rows])
        bucket.upload_file(tmp_path / "g.zarr/x/zarr.json", "bucket", "x/zarr.json")

    upload(5)
    array = ZarrArray("s3://bucket/x")
    before = array.versions()
    assert list(before) == ["s3://bucket/x/zarr.json"]
    assert array.versions() == before
    upload(6)
    assert array.versions() != before


def test_texts_raise_an_error_when_they_are_used(tmp_path):
    path = group(tmp_path / "g.zarr", 2, x=X, ids=np.array(["a"] * ROWS))
    arrays = open_zarr(path, ["x"], ["ids"])
    np.testing.assert_array_equal(arrays["x"][:], X)
    with pytest.raises(
        DataError, match=r"ids is not a Zarr array that T.*<U1"
    ) as error:
        len(arrays["ids"])
    assert "tensorstore_spec" not in str(error.value)


def test_sources_that_are_not_zarr(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert not is_zarr(str(tmp_path))
    assert not is_zarr(str(tmp_path / "notes.txt"))
    assert not is_zarr("package.module:callable")
    for source, words in (
        (f"file://{tmp_path}", r"not a Zarr array or group\. Expected zarr\.json"),
        ("nowhere://bucket/x.zarr", r"nowhere://bucket/x\.zarr can't be opened"),
    ):
        with pytest.raises(DataError, match=words):
            open_zarr(source, ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"zarr\.json of .*x\.zarr can't be read: Expecting"),
        ("[]", r"zarr\.json of .*x\.zarr is not metadata of Zarr"),
        ("{}", "is not a Zarr array or group"),
        ('{"node_type": "array"}', "is not a Zarr array that TensorStore can read"),
    ],
)
def test_metadata_that_are_damaged(tmp_path, text, words):
    path = write(tmp_path / "x.zarr", X)
    (tmp_path / "x.zarr" / "zarr.json").write_text(text)
    with pytest.raises(DataError, match=words):
        len(open_zarr(path, ()))


def test_a_store_of_layertap_is_refused_and_its_arrays_are_not(tmp_path):
    with begin(tmp_path / "v.zarr") as writer:
        go_on(writer)
    root = json.loads((tmp_path / "v.zarr" / "zarr.json").read_text())
    assert "layertap" in root["attributes"]
    with pytest.raises(DataError, match=r"v\.zarr is a store of layertap"):
        open_zarr(str(tmp_path / "v.zarr"), ["x"])
    stored = Reader(tmp_path / "v.zarr")
    for path in stored.paths:
        arrays = open_zarr(str(tmp_path / "v.zarr" / path), ())
        np.testing.assert_array_equal(arrays[:], stored.array(path)[:])


def test_without_tensorstore_the_error_says_how_to_install_it(tmp_path):
    path = write(tmp_path / "x.zarr", X)
    program = (
        "import sys; sys.modules['tensorstore'] = None\n"  # as if not installed
        "from layertap.errors import BackendMissingError\n"
        "from layertap.inputs.zarr_arrays import open_zarr\n"
        "try:\n    open_zarr(sys.argv[1], ())\n"
        "except BackendMissingError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'pip install "layertap[cloud]"' in done.stdout
