"""Any data that `model.predict` accepts: the same rows in order, or a clear error."""

import gc
import threading
import tracemalloc
import weakref
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.python.data.ops.iterator_ops import OwnedIterator

from layertap.errors import DataError
from layertap.inputs.feed import Feed
from layertap.tracing.model_structure import InputSpec
from tests.support.streams import (
    IDS,
    ONE,
    ROWS,
    SIZE,
    STREAMS,
    TRIPLES,
    TWO,
    WEIGHTS,
    Batches,
    Repeatable,
    X,
    Y,
    cut,
)

pytestmark = pytest.mark.every_backend

LONG = InputSpec("x", (None, None, 2), "float32")


NAMED = {
    "first": InputSpec("first", (None, 3), "float32"),
    "second": InputSpec("second", (None, 2), "float32"),
}


def joined(batches: list[Any]) -> Any:
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def assert_rows(feed: Feed, inputs: Any, labels: Any = None, weights: Any = None):
    """Asserts that a feed yields these rows in order, in batches that count them."""
    batches = list(feed.batches())
    row = 0
    for batch in batches:
        assert batch.row == row
        row += batch.rows
    for parts, expected in (
        ([batch.inputs for batch in batches], inputs),
        ([batch.labels for batch in batches], labels),
        ([batch.sample_weight for batch in batches], weights),
    ):
        if expected is None:
            assert all(part is None for part in parts)
            continue
        keras.tree.assert_same_structure(parts[0], expected)
        for leaf in keras.tree.flatten(parts):
            assert type(leaf) in (np.ndarray, np.memmap)
        for one, other in zip(
            keras.tree.flatten(joined(parts)), keras.tree.flatten(expected), strict=True
        ):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


@pytest.mark.parametrize("name", STREAMS)
def test_streams_yield_all_rows_with_labels_and_weights(name):
    labels = Y.astype("int32" if keras_narrows(name) else "int64")
    feed = Feed(STREAMS[name](), ONE)
    assert feed.rows is None
    assert feed.batch_size is None
    first = feed.first()
    assert (first.row, first.inputs.tolist()) == (0, X[: first.rows].tolist())
    assert_rows(feed, X, labels, WEIGHTS)


def keras_narrows(name: str) -> bool:
    return name == "backend tensors" and keras.backend.backend() == "jax"


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_no_more_often_than_needed(name):
    read = []

    def watched():
        for element in STREAMS[name]():
            read.append(element)
            yield tuple(element)

    feed = Feed(watched(), ONE)
    assert feed.first() is feed.first()
    assert len(read) <= 2
    assert sum(batch.rows for batch in feed.batches()) == ROWS
    with pytest.raises(DataError, match=r"generator was read before.*only once"):
        next(feed.batches())


def test_data_that_can_be_read_again_are():
    for data in (Repeatable(TRIPLES), Batches(TRIPLES), Batches(TRIPLES, workers=2), X):
        feed = Feed(data, ONE)
        for _ in range(2):
            assert sum(batch.rows for batch in feed.batches()) == ROWS
            assert next(feed.batches()).row == 0


ARRAYS: dict[str, tuple[Any, Any, Any]] = {
    "one array": (X, ONE, X),
    "of float64": (X.astype("float64"), ONE, X),
    "of uint8": (X.astype("uint8"), ONE, X),
    "of bfloat16": ((X % 7).astype(ml_dtypes.bfloat16), ONE, X % 7),
    "backend tensor": (keras.ops.convert_to_tensor(X), ONE, X),
    "torch tensor that learns": (torch.tensor(X, requires_grad=True), ONE, X),
    "tf tensor": (tf.constant(X), ONE, X),
    "list": ([X, IDS], TWO, [X, IDS]),
    "tuple": ((X, IDS), TWO, [X, IDS]),
    "dictionary for a list": ({"ids": IDS, "x": X, "more": Y}, TWO, [X, IDS]),
    "integral floats for integers": ([X, IDS.astype("float64")], TWO, [X, IDS]),
    "dictionary": (
        {"second": X[:, 1:], "first": X},
        NAMED,
        {"first": X, "second": X[:, 1:]},
    ),
    "list of one": ([X], ONE, X),
    "named, of one": ({"x": X}, ONE, X),
    "a last axis that is removed": (X[..., None], ONE, X),
    "a last axis that is added": (Y, InputSpec("x", (None, 1), "int64"), Y[:, None]),
    "no specs": (X.astype("float64"), None, X),
    "no specs, structure": ({"a": [X, IDS]}, None, {"a": [X, IDS]}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_yield_all_rows(name):
    data, specs, expected = ARRAYS[name]
    feed = Feed(data, specs, SIZE)
    assert (feed.rows, feed.batch_size) == (ROWS, SIZE)
    assert_rows(feed, expected)
    assert [batch.rows for batch in feed.batches()] == [5, 5, 5, 5, 3]
    assert [batch.rows for batch in Feed(data, specs).batches()] == [ROWS]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("data", "specs", "inputs", "labels", "weights"),
    [
        ((X,), ONE, X, None, None),
        ((X, Y), ONE, X, Y, None),
        ((X, Y, WEIGHTS), ONE, X, Y, WEIGHTS),
        ((X, None, WEIGHTS), ONE, X, None, WEIGHTS),
        ((X, None), ONE, X, None, None),
        ((X, {"a": Y, "b": [Y, IDS]}), ONE, X, {"a": Y, "b": [Y, IDS]}, None),
        (([X, IDS], Y), TWO, [X, IDS], Y, None),
        ((X, IDS), TWO, [X, IDS], None, None),
        (([X, IDS], [Y, Y], WEIGHTS), TWO, [X, IDS], [Y, Y], WEIGHTS),
        (({"x": X, "ids": IDS}, Y), TWO, [X, IDS], Y, None),
        ((X, Y), None, X, Y, None),
        (({"a": X}, Y), None, {"a": X}, Y, None),
    ],
)
def test_the_meaning_of_a_tuple(data, specs, inputs, labels, weights):
    assert_rows(Feed(data, specs, SIZE), inputs, labels, weights)
    batches = [
        keras.tree.map_structure(
            lambda leaf: None if leaf is None else leaf[i : i + SIZE],  # noqa: B023
            data,
        )
        for i in range(0, ROWS, SIZE)
    ]
    assert_rows(Feed(iter(batches), specs), inputs, labels, weights)


@pytest.mark.one_backend
def test_lists_of_a_loader_are_tuples_and_lists_of_a_generator_are_inputs():
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(IDS))
    loader = torch.utils.data.DataLoader(pairs, batch_size=SIZE)
    assert isinstance(next(iter(loader)), list)
    assert_rows(Feed(loader, ONE), X, IDS.astype("int32"))
    assert_rows(Feed(loader, TWO), [X, IDS])
    assert_rows(Feed((list(pair) for pair in cut(X, IDS)), TWO), [X, IDS])


@pytest.mark.one_backend
def test_a_memory_map_is_not_read_into_memory(tmp_path):
    rows = 200_000
    np.save(tmp_path / "x.npy", np.zeros((rows, 3), "float32"))
    data = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    feed = Feed(data, ONE)
    first = feed.first()
    last = list(feed.batches(rows - 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(first.inputs, data)
    assert [batch.row for batch in last] == [rows - 32]
    assert peak < data.nbytes / 10


@pytest.mark.one_backend
def test_batches_are_padded_only_to_little_more():
    x = np.zeros((9, 3), "float32")
    assert [batch.full for batch in Feed(x, ONE, 4).batches()] == [4, 4, 4]

    def full(*shapes):
        feed = Feed((np.zeros(shape, "float32") for shape in shapes), LONG)
        return [batch.full for batch in feed.batches()]

    assert full((4, 3, 2), (2, 3, 2)) == [4, 4]
    # Many of these may come; each would take as long as the first one.
    assert full((4, 3, 2), (1, 3, 2)) == [4, None]
    assert full((4, 3, 2), (2, 6, 2)) == [4, None]


@pytest.mark.one_backend
@settings(derandomize=True, max_examples=60)
@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 12),
    start=st.integers(0, 45),
    stream=st.booleans(),
)
@example(rows=20, size=32, start=20, stream=False)
@example(rows=20, size=5, start=15, stream=True)
def test_batches_from_a_row_are_the_last_of_all(rows, size, start, stream):
    x = np.arange(rows * 3, dtype="float32").reshape(rows, 3)

    def feed():
        pairs = cut(x, x[:, 0], size=size)
        return Feed(iter(pairs), ONE) if stream else Feed((x, x[:, 0]), ONE, size)

    complete = list(feed().batches())
    expected = [batch for batch in complete if batch.row + batch.rows > start]
    batches = list(feed().batches(start))
    assert [batch.row for batch in batches] == [batch.row for batch in expected]
    for one, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert len(batches) == max(0, -(-rows // size) - start // size) * (start < rows)


class Counted(Batches):
    """Records which batches are read; fills one buffer again for each."""

    def __init__(self, batches: list[Any], **options: Any) -> None:
        super().__init__(batches, **options)
        self.read: list[int] = []
        self.buffer = np.empty((max(len(x) for x, _ in batches), 3), "float32")

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        x, y = super().__getitem__(index)
        if self.workers > 1:
            return [x, y]
        self.buffer[: len(x)] = x
        return [self.buffer[: len(x)], y]


@pytest.mark.one_backend
@settings(derandomize=True, max_examples=60)
@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 12),
    start=st.integers(0, 45),
    count=st.none() | st.integers(0, 20),
    workers=st.sampled_from([1, 3]),
    kind=st.sampled_from(["indexed", "views", "converted"]),
)
@example(rows=20, size=5, start=5, count=5, workers=3, kind="indexed")
@example(rows=20, size=5, start=5, count=5, workers=1, kind="views")
def test_batches_from_anywhere_are_some_of_all(rows, size, start, count, workers, kind):
    x = np.arange(rows * 3, dtype="float32").reshape(rows, 3)
    pairs = cut(x, x[:, 0], size=size)
    if kind == "indexed":
        data = Counted(pairs, workers=workers, max_queue_size=4)
        feed = Feed(data, ONE, anywhere=True)
        assert feed.batch_size is None
        data.read.clear()
    else:
        arrays = (x if kind == "views" else x.astype("float64"), x[:, 0])
        feed = Feed(arrays, ONE, size, anywhere=True)
    size_of_first = min(size, rows) if kind == "indexed" else size
    assert (feed.rows, feed.size) == (rows, size_of_first)
    stop = None if count is None else start + count
    batches = list(feed.batches(start, stop))
    end = rows if stop is None else min(stop, rows)
    firsts = [
        row
        for row in range(0, rows, size)
        if row + size > start and row < end and start < end
    ]
    assert [batch.row for batch in batches] == firsts
    for batch in batches:
        part = slice(batch.row, min(batch.row + size, rows))
        np.testing.assert_array_equal(batch.inputs, x[part])
        np.testing.assert_array_equal(batch.labels, x[part, 0])
    if kind == "indexed":
        # The first batch is also read for its form.
        assert sorted(data.read) == sorted([0, *(row // size for row in firsts)])


@pytest.mark.one_backend
def test_a_stream_ends_at_the_stop():
    read = []

    def watched():
        for element in TRIPLES:
            read.append(element)
            yield element

    assert [batch.row for batch in Feed(watched(), ONE).batches(3, 12)] == [0, 5, 10]
    assert len(read) == 3


def tensorflow_iterators():
    return [one for one in gc.get_objects() if isinstance(one, OwnedIterator)]


def test_the_iterator_of_a_tensorflow_data_set_is_freed_in_the_background():
    # TensorFlow may wait there.
    freed, others = [], tensorflow_iterators()
    feed = Feed(tf.data.Dataset.from_tensor_slices(X).batch(4), ONE)
    reading = feed.batches()
    next(reading)
    (iterator,) = (
        one for one in tensorflow_iterators() if all(one is not old for old in others)
    )
    weakref.finalize(iterator, lambda: freed.append(threading.current_thread()))
    del iterator
    assert sum(batch.rows for batch in reading) == len(X) - 4
    for thread in threading.enumerate():
        if thread.name == "layertap-data":
            thread.join()
    assert [thread.name for thread in freed] == ["layertap-data"]
