"""Processes that save to one store, or read it, at the same time."""

import os
import signal
import socket

import pytest

import layertap
from layertap.errors import StoreError
from tests.support.faults import python, running
from tests.support.faulty_save import (
    BATCH,
    ROWS,
    assert_resumes,
    assert_right,
    batches,
    error_of,
    save,
)
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of

pytestmark = [
    pytest.mark.processes,
    pytest.mark.usefixtures("one_batch_ahead"),
]

HERE = socket.gethostname()


# A process that saves to a path from standard input, and waits at a row if not 0.
SAVE_HERE_AND_THERE = """
import sys
from tests.support import faulty_save
from layertap.errors import StoreError

def wait():
    print("waits", flush=True)
    sys.stdin.readline()

print("ready", flush=True)
for line in sys.stdin:
    path, at = line.split()
    try:
        faulty_save.save(path, faulty_save.batches(int(at) or None, wait))
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
        for number, batch in enumerate(batches()):
            if number == 1:
                ask(reader, "begin")
            if number and number % 12 == 0:
                # Full blocks are committed one by one; one batch is in progress.
                there = (number - 1) * BATCH
                block = layertap.open(path).reader.block_rows
                while not seen or seen[-1] + block <= there:
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
