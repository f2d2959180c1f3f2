"""Errors of the user's code and signals lose no rows and leave the model intact."""

import importlib
import inspect
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import DataError
from layertap.tracing import hooks
from tests.support.campaign import everywhere
from tests.support.processes import environment

pytestmark = pytest.mark.every_backend

# Blocks of some three hundred rows.
SMALL = 3 * 2**16
ROWS, BATCH = 1000, 25
BAD = 625


class Square(layers.Layer):
    """Needs memory for the square of its input's length, and returns one number."""

    def call(self, x):
        column = ops.expand_dims(x, -1)
        products = ops.matmul(column, ops.transpose(column, (0, 2, 1)))
        # Sorting needs all of them at a time, with XLA, too.
        return ops.expand_dims(ops.max(ops.sort(products), axis=(1, 2)), -1)


def model_of_any_length():
    # Not `keras.utils.set_random_seed`: it imports TensorFlow, which takes seconds.
    random.seed(2)
    x = keras.Input((None,), name="x")
    left = Square(name="square")(x)
    right = layers.Dense(40, name="right")(left)
    joined = layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, layers.Dense(1, name="head")(joined), name="any_length")


def numbers(rows=ROWS):
    return np.random.default_rng(5).normal(size=(rows, 8)).astype("float32")


def batches(bad=None):
    """Yields batches; from row `BAD` on, a function of the batch."""
    x = numbers()
    for row in range(0, ROWS, BATCH):
        batch = x[row : row + BATCH]
        yield bad(batch) if bad is not None and row == BAD else batch


class DataBrokeError(Exception):
    """Raised by the data."""


def raises(error):
    def bad(batch):
        raise error

    return bad


def no_memory(batch):
    """Returns a row for which `Square` needs 16 TiB."""
    return np.ones((1, 2**21), "float32")


def failing_progress(rows, written):
    if rows == BAD + BATCH:
        raise DataBrokeError("the bar is full")


# The bad data, options, the error, and its words about rows and inputs.
FAILURES = {
    "data": (raises(DataBrokeError("a disk")), {}, DataBrokeError, "after 625 rows"),
    "ctrl-c": (raises(KeyboardInterrupt()), {}, KeyboardInterrupt, "625 rows are safe"),
    "exit": (raises(SystemExit(3)), {}, SystemExit, "625 rows are safe"),
    "rank": (lambda b: b[..., None, None], {}, DataError, "'x' .* from row 625 on"),
    "dtype": (lambda b: b.astype(str), {}, DataError, "'x' holds .* from row 625 on"),
    "memory": (
        no_memory,
        {},
        Exception,
        r"rows 625 to 625, .*float32 of shape \(1, 2097152\).*smaller batch_size",
    ),
    "progress": (None, {"progress": failing_progress}, DataBrokeError, "650 rows are"),
}


def text_of(error):
    """Returns the text that a traceback shows of an error."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def wrapped_calls():
    return [inspect.getattr_static(owner, name) for owner, name, _ in hooks.points()]


# Where the backend computes, and otherwise on one for all.
OF_THE_BACKEND = ("ctrl-c", "memory", "rank")


@pytest.mark.parametrize(
    "failure",
    [
        name
        if name in OF_THE_BACKEND
        else pytest.param(name, marks=pytest.mark.one_backend)
        for name in FAILURES
    ],
)
def test_rows_before_are_safe_and_the_model_is_unharmed(failure, tmp_path):
    bad, options, error, words = FAILURES[failure]
    model = model_of_any_length()
    before = model.get_weights(), model.predict(numbers(50), verbose=0)
    keras_own = wrapped_calls()

    with pytest.raises(error) as raised:
        layertap.save(model, batches(bad), tmp_path / "v.zarr", memory=SMALL, **options)
    safe = BAD + BATCH if failure == "progress" else BAD
    assert f"{safe} rows are safe in {tmp_path / 'v.zarr'}" in text_of(raised.value)
    assert re.search(words, text_of(raised.value))

    saved = layertap.open(tmp_path / "v.zarr")
    assert (saved.rows, saved.complete) == (safe, False)
    assert layertap.verify(saved)
    assert wrapped_calls() == keras_own
    for mine, now in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, now)
    np.testing.assert_array_equal(model.predict(numbers(50), verbose=0), before[1])

    layertap.save(model, batches(), tmp_path / "v.zarr", memory=SMALL)
    complete = layertap.save(model, batches(), tmp_path / "w.zarr", memory=SMALL)
    saved = layertap.open(tmp_path / "v.zarr")
    for address in complete:
        assert saved[address][:].tobytes() == complete[address][:].tobytes()

    model.compile("sgd", "mse")
    model.fit(numbers(50), np.ones((50, 1)), verbose=0)
    changed = zip(before[0], model.get_weights(), strict=True)
    assert any((mine != now).any() for mine, now in changed)


@pytest.mark.one_backend
def test_a_log_that_can_not_be_written_loses_no_rows(tmp_path, monkeypatch):
    class Closed:
        """A closed standard error."""

        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError("nobody reads")

        def flush(self):
            raise BrokenPipeError("nobody reads")

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stderr", Closed())
    layertap.save(model_of_any_length(), batches(), tmp_path / "v", progress=True)
    monkeypatch.undo()
    saved = layertap.open(tmp_path / "v")
    assert (saved.rows, saved.complete) == (ROWS, True)


def test_nan_and_infinity_are_saved_as_they_are(tmp_path):
    bad = numbers(BATCH)
    bad[3, 2], bad[4, 1], bad[5, 0] = np.nan, np.inf, -np.inf
    model = model_of_any_length()
    saved = layertap.save(model, batches(lambda batch: bad), tmp_path / "v.zarr")
    expected = (bad[:, :, None] * bad[:, None, :]).max(axis=(1, 2))
    found = saved["fusion/in/0"][BAD : BAD + BATCH, 0]
    finite = np.isfinite(expected)
    assert (~finite).sum() == 3
    np.testing.assert_array_equal(np.isfinite(found), finite)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-5)


@pytest.mark.one_backend
def test_progress_can_be_a_function(tmp_path):
    seen = []

    def report(rows, written):
        seen.append((rows, written))

    saved = layertap.save(
        model_of_any_length(), batches(), tmp_path / "v.zarr", progress=report
    )
    assert [rows for rows, _ in seen] == [*range(BATCH, ROWS + 1, BATCH), ROWS]
    assert 0 < seen[-1][1] <= saved.bytes_on_disk


@pytest.mark.one_backend
def test_progress_says_where_a_save_resumes_and_what_it_computed(tmp_path, capsys):
    path, model = tmp_path / "v.zarr", model_of_any_length()

    def lines(data, **options):
        """Returns the lines of a save, without those about its speed."""
        with suppress(KeyboardInterrupt):
            layertap.save(model, data, path, memory=SMALL, progress=True, **options)
        said = capsys.readouterr().err.splitlines()
        return [line.removeprefix("layertap: ") for line in said if "/s" not in line]

    interrupted = raises(KeyboardInterrupt())
    values = "saving 2 values"
    assert lines(batches(interrupted)) == [
        *("planning", "computing the first batch", f"{values}: 25 rows"),
    ]
    there = "625 rows are there; going on after them."
    kept = "Kept 625 rows, computed 375."
    first, second, told, *rest, last = lines(batches())
    assert (first, second, told) == (
        *("planning", "comparing the run with the store", there),
    )
    assert last == kept
    assert any(line.startswith("reading saved rows: 0 of 625 rows") for line in rest)
    rows = numbers()
    told = lines(rows, batch_size=BATCH)
    assert told[-1] == "Compared, not computed."
    compared = "comparing saved rows with the data: 0 of 1,000 rows"
    assert told[2:-1] == [compared]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("short", "size", "hint"), [(60, None, True), (0, None, False), (60, 64, False)]
)
def test_a_hint_at_larger_batches(tmp_path, capsys, monkeypatch, short, size, hint):
    module = importlib.import_module("layertap.pipeline.save")
    monkeypatch.setattr(module, "_SHORT", short)
    monkeypatch.setattr(module, "_MANY", 3)
    path, options = tmp_path / "v.zarr", {"batch_size": size, "progress": True}
    layertap.save(model_of_any_length(), numbers(), path, **options)
    said = capsys.readouterr().err
    assert ("A larger batch_size, such as 1024, is faster" in said) is hint


# Signals, to a process of its own.

CHILD = """
    import os, select, signal, sys

    from tests.pipeline import test_signals as t
    import layertap

    def waits(batch):
        print("reading", flush=True)
        # Without a read, which would delay a signal that comes just before.
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
        sys.stdin.readline()
        return batch

    def again(event, arguments):
        # The second signal comes during the commit after the first one.
        if event == "os.rename" and t.KILLED_TWICE in str(arguments[1]):
            if sys.exc_info()[0] is not None:
                os.kill(os.getpid(), signal.SIGINT)

    {more}
    layertap.save(t.model_of_any_length(), t.batches(waits), {path!r}, memory=t.SMALL)
"""


def start(path, more=""):
    """Starts a process whose save waits at row `BAD` of its data."""
    program = textwrap.dedent(CHILD).format(path=str(path), more=more)
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "reading\n"
    return child


def ended(child, number):
    """Sends a signal; returns the status and the last output of the process."""
    child.send_signal(number)
    _, said = child.communicate()
    return child.returncode, said


def go_on(path):
    """Makes the same call again, to its end."""
    saved = layertap.save(model_of_any_length(), batches(), path, memory=SMALL)
    assert (saved.rows, saved.complete) == (ROWS, True)
    assert layertap.verify(saved)


@everywhere
@pytest.mark.parametrize(
    ("number", "statuses"),
    [
        (signal.SIGINT, {-signal.SIGINT, 130}),
        (signal.SIGTERM, {143}),
    ],
)
def test_a_signal_ends_a_save_with_its_rows(number, statuses, tmp_path):
    path = tmp_path / "v.zarr"
    status, said = ended(start(path), number)
    assert status in statuses, said
    saved = layertap.open(path)
    assert saved.rows == BAD
    assert layertap.verify(saved)
    go_on(path)


@pytest.mark.processes
def test_a_second_ctrl_c_ends_it_at_once_and_harms_nothing(tmp_path):
    path = tmp_path / "v.zarr"
    more = f"t.KILLED_TWICE = {str(path)!r}; sys.addaudithook(again)"
    status, said = ended(start(path, more), signal.SIGINT)
    assert status in {-signal.SIGINT, 130}, said
    assert said.count("KeyboardInterrupt") > 1
    saved = layertap.open(path)
    assert 0 < saved.rows <= BAD
    assert layertap.verify(saved)
    go_on(path)


@pytest.mark.campaign(alone=True)
@pytest.mark.processes
def test_a_program_that_handles_sigterm_itself_still_does(tmp_path):
    path = tmp_path / "v.zarr"
    # The signal may come while the process prints, when another print would fail.
    more = r"signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'mine\n'))"
    child = start(path, more)
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline() == "mine\n"
    child.communicate("go on\n")
    assert child.returncode == 0
    assert layertap.open(path).complete


@pytest.mark.one_backend
def test_a_save_in_a_thread_leaves_signals_alone(tmp_path):
    handlers = []

    def seen(batch):
        handlers.append(signal.getsignal(signal.SIGTERM))
        return batch

    before = signal.getsignal(signal.SIGTERM)
    model = model_of_any_length()
    for folder, in_a_thread in ((tmp_path / "a", True), (tmp_path / "b", False)):
        work = threading.Thread(
            target=layertap.save, args=(model, batches(seen), folder)
        )
        if in_a_thread:
            work.start()
            work.join()
        else:
            work.run()
        assert layertap.open(folder).complete
        assert signal.getsignal(signal.SIGTERM) is before
    assert handlers[0] is before
    assert handlers[1] is not before
