"""Disks, rights and limits that fail during a save.

Each failure raises a `StoreError` with the path and with advice. Committed rows stay
right, and the same call resumes when the cause is gone. Failures of single system calls
are in `tests/store/writing/test_writer_faults.py`.
"""

import re
from contextlib import contextmanager

import numpy as np
import pytest

import layertap
from layertap.errors import StoreError
from tests.support.faults import few_files, small_disk, unprivileged
from tests.support.faulty_save import (
    BATCH,
    ROWS,
    assert_resumes,
    assert_right,
    batches,
    error_of,
    model,
    numbers,
    save,
)
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.usefixtures("one_batch_ahead"),
]


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
