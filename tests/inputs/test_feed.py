"""Any data that `model.predict` accepts: the same rows in order, or a clear error."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import layertap
from layertap.errors import DataError, DataTypeError, OptionError
from layertap.inputs.feed import Feed
from layertap.tracing.model_structure import InputSpec

pytestmark = pytest.mark.every_backend

ROWS, SIZE = 23, 5
ONE = InputSpec("x", (None, 3), "float32")
TWO = [ONE, InputSpec("ids", (None, 2), "int32")]
NAMED = {
    "first": InputSpec("first", (None, 3), "float32"),
    "second": InputSpec("second", (None, 2), "float32"),
}

X = np.arange(ROWS * 3, dtype="float32").reshape(ROWS, 3)
IDS = np.arange(ROWS * 2, dtype="int32").reshape(ROWS, 2)
Y = np.arange(ROWS)
WEIGHTS = np.linspace(0, 1, ROWS, dtype="float32")


def cut(*arrays: Any, size: int = SIZE) -> list[Any]:
    """Cuts arrays into batches by hand."""
    starts = range(0, len(arrays[0]), size)
    return [tuple(array[i : i + size] for array in arrays) for i in starts]


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


class Batches(keras.utils.PyDataset):
    """A data set of batches; later batches are made faster than the first."""

    def __init__(self, batches: list[Any], **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        for _ in range(20_000 // (index + 1)):
            pass
        return self.batches[index]


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index], WEIGHTS[index]


class Repeatable:
    """An iterable that starts again each time."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Once(Repeatable):
    """An iterable that returns the same iterator each time."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


TRIPLES = cut(X, Y, WEIGHTS)

STREAMS: dict[str, Callable[[], Any]] = {
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(SIZE),
    "tf.data of unknown length": lambda: tf.data.Dataset.from_generator(
        lambda: iter(TRIPLES),
        output_signature=(
            tf.TensorSpec((None, 3), "float32"),
            tf.TensorSpec((None,), "int64"),
            tf.TensorSpec((None,), "float32"),
        ),
    ),
    "DataLoader": lambda: torch.utils.data.DataLoader(Rows(), batch_size=SIZE),
    "PyDataset": lambda: Batches(TRIPLES),
    "PyDataset of 3 workers": lambda: Batches(TRIPLES, workers=3),
    "PyDataset of a queue of 1": lambda: Batches(TRIPLES, workers=3, max_queue_size=1),
    "generator": lambda: (triple for triple in TRIPLES),
    "iterator": lambda: iter(TRIPLES),
    "iterable": lambda: Repeatable(TRIPLES),
    "iterable to be read once": lambda: Once(TRIPLES),
    "batches of several sizes": lambda: iter(
        [(X[a:b], Y[a:b], WEIGHTS[a:b]) for a, b in ((0, 1), (1, 18), (18, 23))]
    ),
    "empty batches between": lambda: iter(
        [(X[a:b], Y[a:b], WEIGHTS[a:b]) for a, b in ((0, 0), (0, 9), (9, 9), (9, 23))]
    ),
    "backend tensors": lambda: (
        tuple(map(keras.ops.convert_to_tensor, triple)) for triple in TRIPLES
    ),
}


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
@settings(derandomize=True, deadline=None, max_examples=60)
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
@settings(derandomize=True, deadline=None, max_examples=60)
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


@pytest.mark.one_backend
def test_a_data_set_that_is_empty_or_changes_its_sizes_cannot_be_read_anywhere():
    with pytest.raises(DataError, match=r"empty.*at least one row"):
        next(Feed(Batches([]), ONE, anywhere=True).batches())
    for batches, words in (
        ([X[:0]], "Batch 0 of Batches has 0 rows"),
        ([X[:0], X[:5]], "Batch 1 of Batches has 5 rows. Expected 0"),
        ([X[:5], X[:5], X[:6]], "Batch 2 of Batches has 6 rows. Expected 5"),
        ([X[:5], X[:5], X[:0]], "Batch 2 of Batches has 0 rows"),
        ([X[:5], X[:4], X[:5]], "Batch 1 of Batches has 4 rows"),
    ):
        with pytest.raises(DataError, match=words + r".*layertap\.save"):
            list(Feed(Batches(batches), ONE, anywhere=True).batches())
    with pytest.raises(DataError, match="Endless has no end"):
        Feed(Endless(TRIPLES), ONE, anywhere=True)
    with pytest.raises(OptionError, match=r"batch_size.*its own batches"):
        Feed(Batches(TRIPLES), ONE, 8, anywhere=True)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", [name for name in STREAMS if "PyDat" not in name])
def test_a_stream_cannot_be_read_from_anywhere(name):
    with pytest.raises(DataTypeError, match=r"one after the other.*`layertap\.save`"):
        Feed(STREAMS[name](), ONE, anywhere=True)


# Data that are refused.

GOOD = X[:8]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("data", "specs", "error", "words"),
    [
        (None, ONE, DataTypeError, "Received NoneType"),
        ("x.npy", ONE, DataTypeError, r"Received str.*Load the file"),
        (b"x", ONE, DataTypeError, "Received bytes"),
        (3, ONE, DataTypeError, "Received int"),
        ([], ONE, DataTypeError, "Received list"),
        ({}, ONE, DataTypeError, "Received dict"),
        (object(), ONE, DataTypeError, "Received object"),
        (
            [[1.0, 2.0, 3.0]],
            ONE,
            DataTypeError,
            "Received float.*Convert it",
        ),
        (np.float32(3), ONE, DataError, "scalar"),
        ([X, np.float32(3)], TWO, DataError, "scalar"),
        (X[:0], ONE, DataError, "empty"),
        (iter([]), ONE, DataError, "empty.*used up"),
        (iter([X[:0]]), ONE, DataError, "empty"),
        (Batches([]), ONE, DataError, "empty"),
        ({"idx": IDS, "x": X}, TWO, DataError, "'ids' is not in.*Did you mean 'idx'"),
        ({"a": X}, ONE, DataError, r"'x' is not in the data.*Known \(1\): 'a'"),
        ({1: X}, ONE, DataError, "'x' is not in the data. Received 1"),
        (X, TWO, DataError, r"Expected 2 inputs \(x, ids\).* 1"),
        ([X, IDS, Y], TWO, DataError, "Expected 2 inputs.* 3"),
        (
            X[:, :2],
            ONE,
            DataError,
            r"'x'.*row 0.*\(rows, 3\).*\(23, 2\)",
        ),
        (X[0], ONE, DataError, r"'x' has .*Expected \(rows, 3\).*\(3,\)"),
        (X[:, None], ONE, DataError, r"'x' has .*Expected \(rows, 3\).*\(23, 1, 3\)"),
        (iter([GOOD, X[8:, :2]]), ONE, DataError, r"row 8 on.*\(15, 2\)"),
        (iter([GOOD, X[8:], X[0, 0]]), ONE, DataError, r"row 23 on.*Received \(\)"),
        (np.array([["a"] * 3]), ONE, DataTypeError, "'x' holds <U1 from row 0"),
        (
            np.array([["a"] * 3]),
            None,
            DataTypeError,
            "holds <U1.*real numbers",
        ),
        (X.astype(object), ONE, DataTypeError, "'x' holds object"),
        (X.astype("complex64"), ONE, DataTypeError, "'x' holds complex64"),
        (X.astype("complex64"), None, DataTypeError, "holds complex64"),
        (X.astype("datetime64[s]"), ONE, DataTypeError, "holds datetime64"),
        ([X, IDS + 0.5], TWO, DataError, r"'ids' holds 0.5 from row 0.*int32"),
        (
            [X, IDS.astype("int64") + 2**40],
            TWO,
            DataError,
            r"'ids' holds 1099511627776.*int32",
        ),
        ([X, IDS * np.nan], TWO, DataError, "'ids' holds nan.*int32"),
        (iter(["abc"]), ONE, DataTypeError, "a str. Expected arrays"),
        (iter([None]), ONE, DataTypeError, "a NoneType. Expected arrays"),
        (iter([()]), ONE, DataError, "has 0 members"),
        ((X, X, X, X), ONE, DataError, "has 4 members.*list or a dictionary"),
        ((X, Y[:9]), ONE, DataError, r"same number.*inputs \(23, 3\), labels \(9,\)"),
        ([X, IDS[:9]], TWO, DataError, r"same number.*\(23, 3\), inputs\[1\] \(9, 2\)"),
        ((X, Y, WEIGHTS[:9]), ONE, DataError, r"same number of rows.*\(9,\)"),
        (
            iter([(X, Y[:9])]),
            ONE,
            DataError,
            r"row 0.*inputs \(23, 3\), labels \(9,\)",
        ),
        (
            iter([(X, Y, WEIGHTS[:9])]),
            ONE,
            DataError,
            r"row 0 on.*sample_weight \(9,\)",
        ),
        (
            iter([[X, IDS[:9]]]),
            TWO,
            DataError,
            r"row 0.*\(23, 3\), inputs\[1\] \(9, 2\)",
        ),
        (
            iter([GOOD, (GOOD, Y[:8])]),
            ONE,
            DataError,
            "row 8 on differs .* labels. Expected nothing",
        ),
        (
            iter([(GOOD, Y[:8]), GOOD]),
            ONE,
            DataError,
            "row 8.* labels.*Received nothing",
        ),
        (
            iter([(GOOD, Y[:8], Y[:8]), (GOOD, Y[:8])]),
            ONE,
            DataError,
            "row 8 on .* sample_weight.*Received nothing",
        ),
        (
            iter([(GOOD, Y[:8]), (GOOD, {"a": Y[:8]})]),
            ONE,
            DataError,
            "row 8.* labels.*Received nothing",
        ),
        (
            iter([{"a": GOOD}, {"b": GOOD}]),
            None,
            DataError,
            r"row 8 on .* inputs\['a'\].*Received nothing",
        ),
        (
            iter([(GOOD, Y[:8]), (GOOD, GOOD)]),
            ONE,
            DataError,
            r"row 8 .*int64 of shape \(rows\).*float32 of shape \(rows, 3\)",
        ),
        (
            iter([(GOOD, Y[:8]), (GOOD, Y[:8] * 0.5)]),
            ONE,
            DataError,
            "row 8 on .* labels.*int64.*float64",
        ),
    ],
)
def test_bad_data_are_refused_with_the_problem_and_the_row(data, specs, error, words):
    with pytest.raises(error, match=words):
        list(Feed(data, specs).batches())


def test_ragged_and_sparse_tensors_are_refused():
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    sparse = tf.sparse.from_dense(X)
    for data in (ragged, sparse, iter([ragged]), iter([sparse])):
        with pytest.raises(DataTypeError, match=r"Ragged|Sparse"):
            list(Feed(data, ONE).batches())


class Endless(Batches):
    num_batches = None


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tf.data.Dataset.from_tensors(X).repeat(), r"no end.*take\(n\)"),
        (Endless(TRIPLES), "Endless has no end.*num_batches"),
    ],
    ids=["tf.data", "PyDataset"],
)
def test_data_without_an_end_are_refused(data, words):
    with pytest.raises(DataError, match=words):
        Feed(data, ONE)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", STREAMS)
def test_data_with_batches_of_their_own_refuse_a_batch_size(name):
    with pytest.raises(OptionError, match=r"batch_size.*its own batches"):
        Feed(STREAMS[name](), ONE, 8)


@pytest.mark.one_backend
@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_a_batch_size_is_a_number_of_rows(size):
    with pytest.raises(OptionError, match=rf"whole number.*Received {size!r}"):
        Feed(X, ONE, size)
    assert Feed(X, ONE, np.int64(5)).first().rows == 5


class UsersError(Exception):
    """Raised by the user's own data."""


class Broken(Batches):
    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise UsersError("batch 2")
        return super().__getitem__(index)


class BrokenRows(Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 2 * SIZE:
            raise UsersError("batch 2")
        return super().__getitem__(index)


def broken_generator():
    yield from TRIPLES[:2]
    raise UsersError("batch 2")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "build",
    [
        broken_generator,
        lambda: Broken(TRIPLES),
        lambda: Broken(TRIPLES, workers=3),
        lambda: torch.utils.data.DataLoader(BrokenRows(), batch_size=SIZE),
    ],
    ids=["generator", "PyDataset", "PyDataset of 3 workers", "DataLoader"],
)
def test_an_error_of_the_users_data_passes_unchanged(build):
    batches = Feed(build(), ONE).batches()
    assert [next(batches).rows, next(batches).rows] == [SIZE, SIZE]
    with pytest.raises(UsersError, match="batch 2") as caught:
        next(batches)
    assert type(caught.value) is UsersError
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_and_its_arrays_have_the_same_capture(name):
    x = keras.Input((3,), name="x")
    half = keras.layers.Rescaling(0.5)(x)
    model = keras.Model(x, keras.layers.Concatenate(name="fusion")([x, half]))
    values = layertap.capture(model, STREAMS[name]())
    np.testing.assert_array_equal(values["fusion/in/0"], X)
    np.testing.assert_array_equal(values["fusion/in/1"], X / 2)
    np.testing.assert_array_equal(values.labels, Y)
