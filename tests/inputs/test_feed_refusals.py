"""Data that are refused, and data that cannot be read from any row."""

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import layertap
from layertap.errors import (
    DataError,
    DataTypeError,
    LayertapError,
    ModelError,
    OptionError,
)
from layertap.inputs.feed import Feed
from tests.support.streams import (
    IDS,
    ONE,
    SIZE,
    STREAMS,
    TRIPLES,
    TWO,
    WEIGHTS,
    Batches,
    Rows,
    X,
    Y,
)

pytestmark = pytest.mark.every_backend


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
        ("x.npy", ONE, DataError, "x.npy is not supported as data"),
        ([Path("x.npy")], ONE, DataTypeError, r"Received PosixPath.*Load the file"),
        (b"x", ONE, DataTypeError, "Received bytes"),
        (3, ONE, DataTypeError, "Received int"),
        ([], ONE, DataTypeError, "Received list"),
        ({}, ONE, DataError, "no input.*Received no columns"),
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
            ModelError,
            "holds strings.*TensorFlow only",
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
        (iter([None]), ONE, DataTypeError, "'x' is None.*not optional"),
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


def test_data_whose_elements_are_single_rows_are_refused_with_what_to_do():
    rows = tf.data.Dataset.from_tensor_slices(X)
    numbers = tf.data.Dataset.from_tensor_slices(X[:, 0])
    one = [keras.layers.InputSpec(shape=(None, 1), dtype="float32")]
    for data, specs in ((rows, ONE), (iter(X), ONE), (numbers, one)):
        with pytest.raises(DataError, match=r"Is it a single row\? .*\.batch\(32\)"):
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


def transformed(capture):
    """Calls inside functions that the backend transforms."""
    match keras.backend.backend():
        case "jax":
            import jax

            return [
                lambda: jax.jit(capture)(X),
                lambda: jax.jit(lambda: capture(X))(),
                lambda: jax.vmap(capture)(X[None]),
                lambda: jax.grad(lambda x: capture(x)["re_lu/out"].sum())(X),
                lambda: jax.jacfwd(capture)(X),
                lambda: jax.eval_shape(capture, X),
                lambda: jax.lax.map(capture, X[None]),
            ]
        case "tensorflow":
            return [
                lambda: tf.function(capture)(tf.constant(X)),
                lambda: tf.function(lambda: capture(X))(),
                lambda: tf.vectorized_map(capture, tf.constant(X)[None]),
                lambda: tf.data.Dataset.from_tensors(X).map(capture),
            ]
        case _:
            x = torch.tensor(X)
            return [
                lambda: torch.func.vmap(capture)(x[None]),
                lambda: torch.func.grad(lambda x: capture(x)["re_lu/out"].sum())(x),
                lambda: torch.func.jacrev(capture)(x),
                lambda: torch.func.functionalize(capture)(x),
                lambda: capture(x.to("meta")),
            ]


def test_calls_inside_a_transformed_function_are_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU(name="re_lu")])
    for call in transformed(lambda x: layertap.capture(model, x, outputs="*")):
        with pytest.raises(LayertapError) as raised:
            call()
        # TensorFlow lists the user's code before.
        line = str(raised.value).strip().splitlines()[-1]
        assert re.search(r"(no|with) values\. .*Call layertap outside of", line)


@pytest.mark.one_backend
def test_a_symbolic_tensor_is_refused():
    model = keras.Sequential([keras.Input((8,)), keras.layers.ReLU()])
    with pytest.raises(DataTypeError, match="Received KerasTensor"):
        layertap.capture(model, model.inputs[0], outputs="*")
