"""Parquet columns as data: the numbers that were written, read when they are sliced."""

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.errors import DataError
from layertap.inputs.parquet import ParquetFiles, parquet_files, read_parquet

ROWS = 23
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
MAPS = np.arange(ROWS * 6, dtype="int16").reshape(ROWS, 2, 3)
TENSORS = pa.FixedShapeTensorArray.from_numpy_ndarray(MAPS)
COLUMNS = {
    "numbers": pa.array(X[:, 0]),
    "booleans": pa.array(X[:, 0] > 0),
    "halves": pa.array(X[:, 0].astype("float16")),
    "fixed": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3),
    "lists": pa.array(X.tolist(), pa.list_(pa.float32())),
    "large": pa.array(X.tolist(), pa.large_list(pa.float32())),
    "nested": pa.array(MAPS.tolist(), pa.list_(pa.list_(pa.int16(), 3))),
    "tensors": TENSORS,
    "texts": pa.array([f"row {i}" for i in range(ROWS)]),
    "labels of few": pa.array([f"{i % 3}" for i in range(ROWS)]).dictionary_encode(),
}
EXPECTED = {
    "numbers": X[:, 0],
    "booleans": X[:, 0] > 0,
    "halves": X[:, 0].astype("float16"),
    "fixed": X,
    "lists": X,
    "large": X,
    "nested": MAPS,
    "tensors": MAPS,
    "texts": np.array([f"row {i}" for i in range(ROWS)], object),
    "labels of few": np.array([f"{i % 3}" for i in range(ROWS)], object),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """23 rows in three files, in the order of their names."""
    folder = tmp_path_factory.mktemp("parquet")
    table = pa.table(COLUMNS)
    names = ("a/1.parquet", "a/2.parquet", "b.parquet", "c.parquet")
    cuts = (0, 7, 7, 16, ROWS)
    for name, start, stop in zip(names, cuts, cuts[1:], strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        pq.write_table(table[start:stop], folder / name, row_group_size=4)
    (folder / "a" / "notes.txt").write_text("no table")
    (folder / "_delta_log").mkdir()
    for name in ("_delta_log/1.parquet", "_a=b.txt", ".hidden.parquet"):
        (folder / name).write_text("no table")
    return parquet_files(str(folder))


def opened(*paths):
    """Returns the columns of files in one folder."""
    names = [path.name for path in paths]
    return read_parquet(ParquetFiles(str(paths[0].parent), names))


def test_files_of_a_folder_are_in_the_order_of_their_paths(files):
    assert files.names == ["a/1.parquet", "a/2.parquet", "b.parquet", "c.parquet"]


@settings(derandomize=True, max_examples=50)
@given(
    start=st.none() | st.integers(-30, 30),
    stop=st.none() | st.integers(-30, 30),
    step=st.sampled_from([None, 1, 3, -1, -4]),
)
def test_slices_equal_those_of_the_array(files, start, stop, step):
    part = slice(start, stop, step)
    columns = read_parquet(files)
    assert list(columns) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        column = columns[name]
        assert (len(column), column.shape) == (ROWS, expected.shape)
        assert column[part].dtype == column.dtype == expected.dtype
        np.testing.assert_array_equal(column[part], expected[part])


def test_a_complete_column(files):
    for name, column in read_parquet(files).items():
        np.testing.assert_array_equal(np.asarray(column), EXPECTED[name])


def test_only_the_row_groups_of_a_slice_are_read_and_once(files, tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"x": COLUMNS["fixed"], "y": COLUMNS["texts"]})
    pq.write_table(table, path, row_group_size=5)
    column = opened(path)["x"]
    np.testing.assert_array_equal(column[7:12], X[7:12])
    path.write_bytes(b"gone")
    np.testing.assert_array_equal(column[5:15], X[5:15])
    assert column.shape == (ROWS, 3)
    with pytest.raises(DataError, match=r"'x', row group 3 of .*x\.parquet, can't be"):
        column[14:16]


def test_tables_without_rows(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": COLUMNS["fixed"]})[:0], path)
    column = opened(path)["x"]
    assert len(column) == len(column[:]) == 0


def short(values, kind=None):
    return pa.table({"x": pa.array(values, kind)})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (short([1, None, 3]), "Values are missing: 1"),
        (short([[1, 2], None]), "Values are missing: 1"),
        (short([[1, 2], [3, None]]), "Values are missing: 1"),
        (short([[1, 2], None], pa.list_(pa.int64(), 2)), "Values are missing: 1"),
        (
            short([[1, 2], [3]]),
            r"lists have from 1 to 2 members\. Expected lists of one",
        ),
        (short([{"a": 1}]), "are struct.*Expected arrays"),
    ],
)
def test_columns_that_are_not_arrays(tmp_path, table, words):
    pq.write_table(table, tmp_path / "x.parquet")
    column = opened(tmp_path / "x.parquet")["x"]
    with pytest.raises(DataError, match=rf"Column 'x', row group 0 of .*: .*{words}"):
        len(column)


def test_lists_that_change_their_length_between_files(tmp_path):
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for path, table in zip(paths, (short([[1, 2]]), short([[1, 2, 3]])), strict=True):
        pq.write_table(table, path)
    column = opened(*paths)["x"]
    assert column[:1].tolist() == [[1, 2]]
    with pytest.raises(
        DataError, match=r"int64 .*Received int64 of shape \('rows', 3\).*b\.parquet"
    ):
        column[:]


OTHER_TYPES = {
    "lists": pa.array(X.astype("float64").tolist()),
    "fixed": pa.FixedSizeListArray.from_arrays(pa.array(X[:, :2].ravel()), 2),
    "nested": COLUMNS["lists"],
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(MAPS.reshape(ROWS, 3, 2)),
    "texts": COLUMNS["numbers"],
    "labels of few": pa.nulls(ROWS),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_types_that_change_are_found_before_the_first_row(tmp_path, name):
    paths = [tmp_path / f"{letter}.parquet" for letter in "abc"]
    for path, column in zip(
        paths, [COLUMNS[name], COLUMNS[name][:0], OTHER_TYPES[name]], strict=True
    ):
        pq.write_table(
            pa.table({"x": COLUMNS["numbers"][: len(column)], name: column}), path
        )
    columns = opened(*paths)
    assert len(columns["x"]) == 2 * ROWS
    with pytest.raises(DataError, match=rf"'{name}' of .*c\.parquet has another type"):
        len(columns[name])


def test_files_of_one_table_in_other_words(tmp_path):
    one, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    names = ("lists", "texts", "labels of few", "nested", "tensors")
    pq.write_table(pa.table({name: COLUMNS[name] for name in names}), one)
    others = {
        "tensors": pa.array(MAPS.tolist(), pa.list_(pa.list_(pa.int16()), 2)),
        "nested": COLUMNS["tensors"],
        "labels of few": COLUMNS["labels of few"].cast(pa.large_string()),
        "texts": COLUMNS["texts"].dictionary_encode(),
        "lists": COLUMNS["fixed"],
    }
    pq.write_table(pa.table(others), other)
    columns = opened(one, other)
    assert list(columns) == list(names)
    for name in names:
        expected = np.concatenate([EXPECTED[name]] * 2)
        np.testing.assert_array_equal(columns[name][:], expected)


def test_tensors_whose_axes_are_stored_in_another_order(tmp_path):
    kind = pa.fixed_shape_tensor(pa.int16(), (2, 3), permutation=[1, 0])
    column = pa.FixedShapeTensorArray.from_storage(kind, TENSORS.storage)
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    received = opened(tmp_path / "x.parquet")["x"]
    np.testing.assert_array_equal(received[:], MAPS.transpose(0, 2, 1))


def test_damaged_files_and_files_with_other_columns(tmp_path):
    text, one, other = (tmp_path / f"{name}.parquet" for name in ("text", "a", "b"))
    text.write_text("hello, no table")
    with pytest.raises(DataError, match=r"text\.parquet is not a readable Parquet"):
        opened(text)
    pq.write_table(short([1]), one)
    pq.write_table(pa.table({"y": [1], "x": [1]}), other)
    for paths in ([one, other], [other, one]):
        with pytest.raises(DataError, match=r"a\.parquet has no column 'y'.*b\.parq"):
            opened(*paths)
    pq.write_table(pa.table([[1], [2]], ["x", "x"]), other)
    with pytest.raises(DataError, match=r"b\.parquet has columns of the same name"):
        opened(other)
    pq.write_table(short([1]), one)
    other.write_bytes(one.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"b\.parquet is not a readable Parquet"):
        opened(other)


def test_damage_that_a_checksum_of_the_file_shows(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"x": COLUMNS["numbers"]})
    pq.write_table(
        table, path, write_page_checksum=True, compression="none", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[content.index(X[7, 0].tobytes())] ^= 1
    path.write_bytes(content)
    column = opened(path)["x"]
    with pytest.raises(DataError, match=r"'x', row group 0 of .*x\.parquet.*CRC"):
        column[:]


FOLDERS = [("2019", "3"), ("2019", "12"), ("2020", "3")]


def hive(folder, folders=FOLDERS, own=()):
    """Writes rows into folders that stand for columns, as Spark does."""
    pieces = zip(folders, np.array_split(X, len(folders)), strict=True)
    for (year, label), rows in pieces:
        below = folder / f"year={year}" / f"labels={label}"
        below.mkdir(parents=True)
        columns = {"x": rows.tolist()} | dict.fromkeys(own, rows[:, 0])
        pq.write_table(pa.table(columns), below / "part.parquet", row_group_size=3)
    return parquet_files(str(folder))


def test_names_of_folders_are_columns(tmp_path):
    files = hive(tmp_path / "of=others" / "table")
    columns = read_parquet(files)
    assert list(columns) == ["x", "year", "labels"]
    # In the order of the paths, where 12 goes before 3.
    rows = [len(rows) for rows in np.array_split(X, 3)]
    expected = {
        "year": np.repeat([2019, 2019, 2020], [rows[1], rows[0], rows[2]]),
        "labels": np.repeat([12, 3, 3], [rows[1], rows[0], rows[2]]),
    }
    for name, values in expected.items():
        column = pickle.loads(pickle.dumps(columns[name]))
        assert (column.shape, column.dtype) == ((ROWS,), np.int32)
        np.testing.assert_array_equal(column[:], values)
        np.testing.assert_array_equal(column[5:17], values[5:17])


def test_folders_may_have_texts_and_files_columns_of_the_same_name(tmp_path):
    files = hive(tmp_path, [("2019", "a%20b"), ("2020", "3")], own=["year"])
    columns = read_parquet(files)
    assert list(columns) == ["x", "year", "labels"]
    np.testing.assert_array_equal(columns["year"][:], X[:, 0])
    assert columns["labels"][:].tolist() == ["a b"] * 12 + ["3"] * 11


def test_folders_that_do_not_name_a_column_of_all_rows(tmp_path):
    missing = "__HIVE_DEFAULT_PARTITION__"
    columns = read_parquet(hive(tmp_path / "a", [("1", "2"), (missing, "2")]))
    assert columns["labels"][:].tolist() == [2] * ROWS
    with pytest.raises(DataError, match=rf"'year' of .*{missing}.* Received null"):
        len(columns["year"])
    hive(tmp_path / "b")
    pq.write_table(pa.table({"x": X.tolist()}), tmp_path / "b" / "z.parquet")
    with pytest.raises(DataError, match=r"z\.parquet has no column 'labels'"):
        read_parquet(parquet_files(str(tmp_path / "b")))


def upload(store, bucket, folder):
    for file in folder.rglob("*"):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            store.object("PUT", bucket, f"table/{name}", file.read_bytes())


def test_a_folder_and_a_file_in_a_bucket(object_store, tmp_path):
    local = read_parquet(hive(tmp_path))
    (tmp_path / "_SUCCESS").write_text("")
    bucket = object_store.bucket()
    upload(object_store, bucket, tmp_path)
    for url in (f"s3://{bucket}/table/", f"s3://{bucket}"):
        columns = read_parquet(parquet_files(url))
        assert list(columns) == list(local)
        for name, expected in local.items():
            column = pickle.loads(pickle.dumps(columns[name]))
            np.testing.assert_array_equal(column[4:11], expected[4:11])
            np.testing.assert_array_equal(column[:], expected[:])
    one = f"s3://{bucket}/table/year=2020/labels=3/part.parquet"
    columns = read_parquet(parquet_files(one))
    assert list(columns) == ["x"]
    np.testing.assert_array_equal(columns["x"][:], local["x"][16:])
    key = one.removeprefix(f"s3://{bucket}/")
    object_store.object("PUT", bucket, key, b"no table")
    for url in (one, f"s3://{bucket}/table"):
        with pytest.raises(DataError, match=rf"{one} is not a readable Parquet file"):
            read_parquet(parquet_files(url))
    assert parquet_files(f"s3://{bucket}/gone.parquet") is None
    assert parquet_files("s3://gone/table") is None


def test_a_bucket_that_cannot_be_reached(object_store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match="s3://bucket/table can't be listed: "):
        parquet_files("s3://bucket/table")


def test_without_pyarrow_the_error_says_how_to_install_it():
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"  # as if not installed
        "from layertap.errors import BackendMissingError\n"
        "from layertap.inputs.parquet import ParquetFiles, read_parquet\n"
        "try:\n    read_parquet(ParquetFiles('', ['x.parquet']))\n"
        "except BackendMissingError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'pip install "layertap[parquet]"' in done.stdout
