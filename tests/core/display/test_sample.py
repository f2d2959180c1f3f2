"""Samples of arrays: spread evenly, and few bytes of large ones."""

import numpy as np
import pytest

from layertap.core.display import sample


class Chunked:
    """An array on disk that counts the chunks which are read."""

    def __init__(self, array, chunk_rows, chunk_bytes):
        self.array, self.chunk_rows, self.chunk_bytes = array, chunk_rows, chunk_bytes
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.rows = []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.rows += np.arange(len(self))[rows].tolist()
        return self.array[rows]

    @property
    def chunks(self):
        return {row // self.chunk_rows for row in self.rows}


def histogram_of(array):
    return sample.of_array(lambda: array, len(array))


@pytest.mark.parametrize(
    ("rows", "chunk_rows", "chunk_bytes", "chunks"),
    [
        (10, 4, 2**10, 3),
        (10_000, 100, 2**18, 16),
        (10_000, 1, 2**20, 4),
        (10_000, 1, 2**22, 1),
        (10_000, 10_000, 2**18, 1),
        (10_000, 3, 2**12, 64),
        (65, 64, 2**18, 2),
    ],
)
def test_few_chunks_are_read_of_the_beginning_and_the_end(
    rows, chunk_rows, chunk_bytes, chunks
):
    array = Chunked(np.arange(rows, dtype="float32"), chunk_rows, chunk_bytes)
    picture = histogram_of(array)
    assert len(array.chunks) == chunks
    assert 0 < len(array.rows) <= 64
    assert array.rows == sorted({*array.rows})
    assert array.rows[0] == 0
    if chunks > 1:
        assert array.rows[-1] >= rows - chunk_rows
    assert picture.label.startswith(f"{len(array.rows)} of {rows:,} " * (rows > 64))


@pytest.mark.parametrize("chunk_bytes", [None, 2**22 + 1, 0])
def test_nothing_is_read_of_a_bucket_or_of_huge_chunks(chunk_bytes):
    array = Chunked(np.ones((5, 2, 2, 2)), 1, chunk_bytes)
    assert histogram_of(array) is None
    assert sample.maps_of(array) == []
    assert array.rows == []


def test_all_of_a_small_array_is_shown():
    array = np.random.default_rng(0).normal(size=(40, 50))
    assert histogram_of(array).label == (
        f"2,000 numbers, from {array.min():.4g} to {array.max():.4g}"
    )


def test_the_same_array_has_the_same_picture():
    array = np.random.default_rng(0).normal(size=(1000, 50))
    assert histogram_of(array) == histogram_of(array)
    assert histogram_of(array).label.startswith("2,000 of 50,000 numbers, from ")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_array_has_none(shape):
    assert histogram_of(np.ones(shape)) is None


def test_an_error_is_no_picture():
    assert sample.of_array(lambda: 1 / 0, 1) is None
    assert sample.maps_of(None) == []


def test_at_most_50_pictures():
    arrays = {str(n): np.arange(3) for n in range(80)}
    assert [*sample.histograms(arrays, arrays, 3)] == [str(n) for n in range(50)]


def test_pictures_end_when_they_take_long(monkeypatch):
    times = iter([0.0, 0.4, 0.8, 1.2])
    monkeypatch.setattr(sample.time, "monotonic", lambda: next(times))
    arrays = {str(n): np.arange(3) for n in range(80)}
    assert [*sample.histograms(arrays, arrays, 3)] == ["0", "1"]
