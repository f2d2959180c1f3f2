"""Disks, rights and limits that fail during a save, and concurrent processes.

Each failure raises a `StoreError` with the path and with advice. Committed rows stay
right, and the same call resumes when the cause is gone. Failures of single system calls
are in `tests/store/writing/test_writer_faults.py`.
"""

import functools
import os
import re
import signal
import socket
from contextlib import contextmanager

import keras
import numpy as np
import pytest
import zarr

import layertap
from layertap.errors import StoreError
from layertap.pipeline import prefetch
from tests.support.faults import few_files, python, running, small_disk, unprivileged
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of

pytestmark = pytest.mark.one_backend

ROWS, BATCH = 1000, 25
# Blocks of two hundred rows or so.
MEMORY = 2**17
HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def one_batch_ahead(monkeypatch):
    """Begins one batch at a time, so that the number in progress is known."""
    monkeypatch.setattr(prefetch, "_MANY", 1)


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Saves a store without any fault."""
    path = tmp_path_factory.mktemp("undisturbed") / "v"
    save(path)
    return path


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


def assert_reported(error, path, reason, advice):
    """Asserts that an error is complete; returns the number of safe rows in it."""
    assert type(error) is StoreError
    message = str(error)
    assert message.startswith(f"{path} could not be written: {reason}")
    assert advice in message
    assert message.endswith(", then do the same again.")
    found = re.search(r" Its ([\d,]+) rows so far are safe\. ", message)
    assert found, message
    return int(found[1].replace(",", ""))


class Fault:
    """A fault that begins at a row of the data, and lasts until it is fixed.

    Args:
        wrong: A context to enter when the fault begins, and to leave when it is fixed.
    """

    def __init__(self, wrong):
        self._wrong = wrong
        self._entered = False

    def happen(self):
        self._wrong.__enter__()
        self._entered = True

    def mend(self):
        assert self._entered
        self._wrong.__exit__(None, None, None)


@contextmanager
def read_only(disk):
    disk.remount("ro")
    yield
    disk.remount("rw")


@contextmanager
def not_for_writing(folder):
    before = folder.stat().st_mode
    folder.chmod(0o555)
    yield
    folder.chmod(before)


def when_idle(path, row, happen):
    """Yields batches; at a row, when no write is in progress, calls a function."""

    def wait_and_happen():
        # Full blocks are committed one by one, a partial block is not; and one
        # batch is in progress.
        there = row - BATCH
        while layertap.open(path).rows + layertap.open(path).reader.block_rows <= there:
            pass
        happen()

    return batches(row, wait_and_happen)


def assert_survives(path, wrong, undisturbed, reason, advice, at=625):
    """Asserts that a save with a fault at a row can be completed."""
    fault = Fault(wrong)
    try:
        with pytest.raises(StoreError) as raised:
            save(path, when_idle(path, at, fault.happen))
    finally:
        fault.mend()
    safe = assert_reported(raised.value, path, reason, advice)
    # The folders of the last block may not be durable yet.
    assert at - 600 < safe <= ROWS
    assert assert_right(path, undisturbed) >= safe
    assert_resumes(path, undisturbed)


SPACE = ("No space left on device", "Free some space")


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "size=2m,nr_inodes=200") as disk:
        yield disk


# Without space a shard fails; with some pages, a `zarr.json` or another shard.
@pytest.mark.parametrize(("at", "pages"), [(625, 0), (625, 16), (975, 1), (975, 16)])
def test_a_disk_that_is_full_for_a_time(disk, undisturbed, at, pages):
    path, full = disk.path / "v", disk.filled(pages)
    assert_survives(path, full, undisturbed, *SPACE, at=at)


def test_a_disk_that_is_too_small_and_then_larger(disk, undisturbed):
    path = disk.path / "v"
    disk.remount("size=192k")
    with pytest.raises(StoreError) as raised:
        save(path)
    safe = assert_reported(raised.value, path, *SPACE)
    assert 0 < safe <= assert_right(path, undisturbed) < ROWS
    # Again, without a change.
    with pytest.raises(StoreError, match=f"{path} could not .* No space left"):
        save(path)
    assert safe <= assert_right(path, undisturbed) < ROWS
    disk.remount("size=2m")
    assert_resumes(path, undisturbed)


@pytest.mark.parametrize("pages", [0, 5])
def test_a_disk_that_is_full_before_a_store_is_created(disk, undisturbed, pages):
    path = disk.path / "v"
    with disk.filled(pages), pytest.raises(StoreError) as raised:
        save(path)
    assert str(raised.value).startswith(f"{path} could not be written: {SPACE[0]}")
    assert "Free some space, or inodes, then do the same again." in str(raised.value)
    assert not list(disk.path.iterdir())
    assert_resumes(path, undisturbed)


def test_no_inodes_for_a_time(disk, undisturbed):
    assert_survives(disk.path / "v", disk.without_inodes(), undisturbed, *SPACE)


def test_a_disk_that_is_read_only_for_a_time(disk, undisturbed):
    path = disk.path / "v"
    reason, advice = "Read-only file system", "Make the disk writable"
    assert_survives(path, read_only(disk), undisturbed, reason, advice)


@pytest.mark.parametrize("folder", ["", "fusion/in/1", "labels"])
def test_the_right_to_write_is_taken_away_for_a_time(undisturbed, folder):
    # Now, as long as it can be read.
    expected = contents_of(Folder(undisturbed))
    x = numbers()
    with unprivileged() as home:
        path = home / "v"
        fault = Fault(not_for_writing(path / folder))
        with pytest.raises(StoreError) as raised:
            save(path, when_idle(path, 625, fault.happen))
        found = layertap.open(path)
        assert layertap.verify(found)
        assert np.array_equal(found.labels[:], np.arange(found.rows))
        fault.mend()
        safe = assert_reported(
            raised.value, path, "Permission denied", "Check who may write there"
        )
        assert 0 < safe <= found.rows
        save(path)
        assert contents_of(Folder(path)) == expected
        assert layertap.verify(
            layertap.open(path), model(), (x, np.arange(ROWS)), batch_size=BATCH
        )


def test_rights_that_are_missing_from_the_start(undisturbed):
    expected = contents_of(Folder(undisturbed))
    with unprivileged() as home:
        home.chmod(0o555)
        with pytest.raises(
            StoreError, match=r"Permission denied.*Check who may"
        ) as raised:
            save(home / "v")
        assert str(home / "v") in str(raised.value)
        home.chmod(0o755)
        save(home / "v")
        (home / "v").chmod(0)
        for action in (save, layertap.open):
            with pytest.raises(StoreError, match="Check who may read there") as raised:
                action(home / "v")
            assert type(raised.value) is StoreError
            assert str(home / "v") in str(raised.value)
        (home / "v").chmod(0o755)
        assert contents_of(Folder(home / "v")) == expected


def test_too_many_open_files_for_a_time(tmp_path, undisturbed):
    # With one more, all files might be written, one after the other.
    path = tmp_path / "v"
    reason, advice = "Too many open files", "Raise the limit on open files"
    assert_survives(path, few_files(0), undisturbed, reason, advice)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("begun", [False, True])
def test_too_many_open_files_to_begin_or_to_resume(tmp_path, undisturbed, begun):
    path = tmp_path / "v"
    if begun:
        with pytest.raises(KeyboardInterrupt):
            save(path, batches(625, interrupt))
    errors = []
    for more in range(9):
        with few_files(more):
            error = error_of(save, path)
        if error is None:
            break
        errors.append(error)
    assert errors
    assert_resumes(path, undisturbed)
    for error in errors:
        assert type(error) is StoreError
        assert str(path) in str(error)
        assert "Too many open files" in str(error)
        assert "Raise the limit on open files" in str(error)


def test_too_many_open_files_to_read(undisturbed):
    saved = layertap.open(undisturbed)
    for read in (
        lambda: layertap.open(undisturbed),
        lambda: saved["fusion/in/0"][:],
        lambda: next(saved.batches(10)),
    ):
        with few_files(0), pytest.raises(StoreError, match="Too many open") as raised:
            read()
        assert str(undisturbed) in str(raised.value)
        assert "Raise the limit on open files" in str(raised.value)
    with few_files(0):
        assert not layertap.verify(saved)
    assert layertap.verify(saved)


# A process that saves to a path from standard input, and waits at a row if not 0.
SAVE_HERE_AND_THERE = """
import sys
from tests.pipeline import test_save_faults as t
from layertap.errors import StoreError

def wait():
    print("waits", flush=True)
    sys.stdin.readline()

print("ready", flush=True)
for line in sys.stdin:
    path, at = line.split()
    try:
        t.save(path, t.batches(int(at) or None, wait))
        print("ended", flush=True)
    except StoreError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.fixture(scope="module")
def other():
    """Starts another process, which saves. The last test with it kills it."""
    with running(python(SAVE_HERE_AND_THERE)) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


def ask(process, line):
    process.stdin.write(f"{line}\n")


def assert_refused(path, process):
    with pytest.raises(StoreError) as raised:
        save(path)
    first = f"by process {process.pid} on {HERE}, since 20"
    assert str(raised.value).startswith(f"{path} is being written already, {first}")


def test_two_processes_that_begin_a_store_at_the_same_moment(
    tmp_path, undisturbed, other
):
    expected = contents_of(Folder(undisturbed))
    for number in range(10):
        path = tmp_path / f"v{number}"
        ask(other, f"{path} 0")
        error = error_of(save, path)
        mine = "ended" if error is None else f"{type(error).__name__}: {error}"
        theirs = other.stdout.readline().strip()
        # Both have ended if the second one found a complete store.
        assert "ended" in (mine, theirs), (mine, theirs)
        for message, winner in ((mine, other.pid), (theirs, os.getpid())):
            if message == "ended":
                continue
            # The other one is writing, or has just ended.
            assert message.startswith("StoreError: ")
            assert f"{path} " in message
            assert "could not be written" not in message
            if "is being written already" in message:
                assert f"by process {winner} on {HERE}, since 20" in message
        assert contents_of(Folder(path)) == expected
        assert layertap.verify(layertap.open(path))
    assert len(list(tmp_path.iterdir())) == 10


def test_a_second_process_is_refused_while_the_first_one_lives(
    tmp_path, undisturbed, other
):
    path = tmp_path / "v"
    for at in (BATCH, 625, ROWS - BATCH):
        ask(other, f"{path}{at} {at}")
        assert other.stdout.readline() == "waits\n"
        assert_refused(f"{path}{at}", other)
        before = assert_right(f"{path}{at}", undisturbed)
        assert before <= at
        ask(other, "go on")
        assert other.stdout.readline() == "ended\n"
        assert_resumes(tmp_path / f"v{at}", undisturbed)
    # And in the other direction.
    lines = []

    def ask_there():
        ask(other, f"{path} 0")
        lines.append(other.stdout.readline())

    save(path, batches(625, ask_there))
    first = f"by process {os.getpid()} on {HERE}, since 20"
    assert lines[0].startswith(f"StoreError: {path} is being written already, {first}")
    assert_resumes(path, undisturbed)
    # Once killed, it no longer blocks.
    ask(other, f"{path}-killed 625")
    assert other.stdout.readline() == "waits\n"
    assert_refused(f"{path}-killed", other)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert_resumes(tmp_path / "v-killed", undisturbed)


READ_ALL_THE_TIME = """
import sys
import numpy as np
import zarr
import layertap
path, undisturbed = sys.argv[1:]
arrays = dict(zarr.open_group(undisturbed, mode="r").members(None))
arrays = {name: a[:] for name, a in arrays.items() if isinstance(a, zarr.Array)}
rows = complete = 0
print("ready", flush=True)
sys.stdin.readline()
while not complete:
    saved = layertap.open(path)
    complete = saved.complete
    assert saved.rows >= rows
    rows = saved.rows
    group = zarr.open_group(path, mode="r")
    for name, expected in arrays.items():
        shown = group[name][:]
        assert len(shown) >= rows
        assert np.array_equal(shown, expected[: len(shown)])
        assert np.array_equal(saved.reader.array(name)[:], expected[:rows])
    assert layertap.verify(saved)
    print(rows, flush=True)
print("right", flush=True)
"""


def test_a_reader_during_a_save_sees_complete_rows(tmp_path, undisturbed):
    path = tmp_path / "v"

    def watched(reader):
        for row, batch in enumerate(batches()):
            if row == 1:
                ask(reader, "begin")
            if row >= 1 and row % 4 == 0:
                seen.append(int(reader.stdout.readline()))
            yield batch

    seen = []
    with running(python(READ_ALL_THE_TIME, path, undisturbed)) as reader:
        assert reader.stdout.readline() == "ready\n"
        save(path, watched(reader))
        *more, last = reader.stdout.read().split()
    assert reader.returncode == 0
    assert last == "right"
    seen += map(int, more)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert seen[-1] == ROWS
    assert_resumes(path, undisturbed)
