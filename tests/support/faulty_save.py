"""One small save, for tests of what disturbs it: its model, data, and right values."""

import functools

import keras
import numpy as np
import zarr

import layertap
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of

ROWS, BATCH = 1000, 25
# Blocks of two hundred rows or so.
MEMORY = 2**17


@functools.cache
def model():
    """Returns a model of two branches, with equal weights in every process."""

    def dense(units, seed, **options):
        start = keras.initializers.GlorotUniform(seed)
        return keras.layers.Dense(units, kernel_initializer=start, **options)

    x = keras.Input((8,), name="x")
    left = dense(16, 1, activation="relu", name="left")(x)
    right = dense(32, 2, name="right")(x)
    joined = keras.layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, dense(1, 3, name="head")(joined), name="faulty")


def numbers():
    return np.random.default_rng(3).normal(size=(ROWS, 8)).astype("float32")


def batches(at=None, then=None):
    """Yields the data in batches; at a row, calls a function first."""
    x, labels = numbers(), np.arange(ROWS)
    for row in range(0, ROWS, BATCH):
        if row == at:
            then()
        yield x[row : row + BATCH], labels[row : row + BATCH]


def save(path, data=None):
    return layertap.save(
        model(), batches() if data is None else data, path, memory=MEMORY
    )


def error_of(action, *arguments):
    """Returns the error that an action raises, or None."""
    try:
        action(*arguments)
    except (OSError, RuntimeError) as error:
        return error
    return None


def assert_right(path, undisturbed):
    """Asserts that all visible rows are right, in zarr-python, too; returns them."""
    saved = layertap.open(path)
    assert layertap.verify(saved)
    group, complete = (zarr.open_group(p, mode="r") for p in (path, undisturbed))
    for name, expected in complete.members(max_depth=None):
        if isinstance(expected, zarr.Array):
            shown = group[name][:]
            assert len(shown) >= saved.rows
            assert np.array_equal(shown, expected[: len(shown)])
            found = saved.reader.array(name)[:]
            assert np.array_equal(found, expected[: saved.rows])
    return saved.rows


def assert_resumes(path, undisturbed):
    """Asserts that the same call completes the store, as if there was no fault."""
    assert save(path).complete
    assert assert_right(path, undisturbed) == ROWS
    assert contents_of(Folder(path)) == contents_of(Folder(undisturbed))
