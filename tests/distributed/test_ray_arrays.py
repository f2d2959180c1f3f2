"""Arrays in Ray's object store, in pieces."""

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.distributed.ray_arrays import dataset_columns, put_array
from layertap.errors import DataError
from layertap.inputs.parquet import parquet_files, read_parquet

pytestmark = pytest.mark.ray

X = np.random.default_rng(0).normal(size=(230, 3)).astype("float32")


@settings(derandomize=True, max_examples=40)
@given(
    rows=st.integers(1, 60),
    piece_rows=st.integers(1, 25),
    start=st.none() | st.integers(-70, 70),
    stop=st.none() | st.integers(-70, 70),
    step=st.sampled_from([None, 1, 2, 7, -1, -3]),
)
def test_slices_of_pieces_equal_those_of_the_array(rows, piece_rows, start, stop, step):
    array = np.arange(rows * 3, dtype="int16").reshape(rows, 3)
    received = put_array(array, piece_rows * array[0].nbytes)
    part = slice(start, stop, step)
    np.testing.assert_array_equal(received[part], array[part])
    assert received[part].dtype == array.dtype
    assert (len(received), received.shape, received.dtype) == (
        rows,
        array.shape,
        array.dtype,
    )


def test_a_slice_within_a_piece_is_a_view_and_fetches_no_other_piece():
    received = put_array(X, 50 * X[0].nbytes)
    received._refs[0] = received._refs[3] = received._refs[4] = None
    one, two = received[60:70], received[80:120]
    np.testing.assert_array_equal(one, X[60:70])
    np.testing.assert_array_equal(two, X[80:120])
    assert np.shares_memory(one, received[50:100])
    assert not np.shares_memory(two, received[50:100])
    assert not one.flags.writeable


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "bfloat16", "<U3", "S3"])
def test_dtypes_stay(dtype):
    array = np.arange(50).reshape(10, 5)
    array = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    received = put_array(array, 40)
    np.testing.assert_array_equal(np.asarray(received), array)
    assert received.dtype == np.asarray(received).dtype == array.dtype


def test_lists_of_parquet_are_the_arrays_that_a_path_has(tmp_path):
    rows = X[:, :2].reshape(len(X), 2, 1)
    table = pa.table(
        {
            "x": pa.array(X.tolist(), pa.list_(pa.float32())),
            "fixed": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3),
            "labels": pa.array(rows.tolist(), pa.list_(pa.list_(pa.float32(), 1))),
            "texts": [["a", "b"]] * len(X),
            "ragged": [[1]] * 200 + [[1, 2], None] * 15,
        }
    )
    for start in (0, 130):
        pq.write_table(table[start : start + 130], tmp_path / f"{start}.parquet")
    columns = dataset_columns(ray.data.read_parquet(str(tmp_path)))
    for name in ("x", "fixed", "labels", "texts"):
        expected = read_parquet(parquet_files(str(tmp_path)))[name]
        assert (columns[name].shape, columns[name].dtype) == (
            expected.shape,
            expected.dtype,
        )
        np.testing.assert_array_equal(columns[name][100:140], expected[100:140])
    words = r"'ragged'.*Expected int64 of shape \(1,\).*\(2,\) in row 200.*drop_columns"
    with pytest.raises(DataError, match=words):
        columns["ragged"][:1]
