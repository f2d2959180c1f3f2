"""Two writers of a store: one of them is refused, with a message about the other.

Also where the file system can't lock folders, as over a network: strace has it so.
"""

import os
import signal
import socket
import subprocess

import pytest

from layertap.errors import StoreError
from layertap.store.writing.writer import Writer
from tests.support.campaign import share
from tests.support.faults import failing, other_world, python, run, running
from tests.support.faulty_store import (
    ARRAYS,
    GO_ON,
    MEMORY,
    assert_goes_on,
    assert_right,
    write_from_the_start,
)
from tests.support.processes import environment

pytestmark = pytest.mark.slow

HOLD = """
import os, sys
from layertap.store.writing.writer import Writer
from tests.support import faulty_store as t
path, host = sys.argv[1:]
if host:
    import socket
    socket.sethostname(host)
writer = t.begin(path)
print(os.getpid(), flush=True)
if sys.stdin.readline():
    t.write_all(writer)
print("ended", flush=True)
"""
KILL_ITSELF = """
import os, signal, sys
from tests.support import faulty_store as t
t.begin(sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""
REMOVE = """
import sys
from layertap.errors import StoreError
from layertap.store.location import remove
try:
    remove(sys.argv[1])
except StoreError as error:
    print(error)
"""
# Errors of file systems over a network.
NO_LOCKS = {"flock": "error=EBADF"}
HERE = socket.gethostname()


@pytest.mark.parametrize("code", share(3, ["EBADF", "ENOLCK", "ENOSYS"]))
def test_a_second_writer_where_nothing_can_be_locked(tmp_path, undisturbed, code):
    path = tmp_path / "v"
    no_locks = {"flock": f"error={code}"}
    with running(failing(no_locks, None, HOLD, path, "")) as first:
        number = first.stdout.readline().strip()
        for action in (GO_ON, REMOVE):
            (output,) = run(failing(no_locks, None, action, path))
            first_one = f"by process {number} on {HERE}, since 20"
            assert output.startswith(f"{path} is being written already, {first_one}")
            assert "Wait until that has ended, or" in output
        first.stdin.write("go on\n")
        assert first.stdout.readline() == "ended\n"
    assert_goes_on(path, undisturbed)


def test_a_killed_writer_where_nothing_can_be_locked(tmp_path, undisturbed):
    path = tmp_path / "v"
    with running(failing(NO_LOCKS, None, HOLD, path, "")) as first:
        os.kill(int(first.stdout.readline()), signal.SIGKILL)
    assert run(failing(NO_LOCKS, None, GO_ON, path)) == ["done"]
    assert_goes_on(path, undisturbed)


def test_a_killed_writer_of_another_host_where_nothing_can_be_locked(
    tmp_path, undisturbed
):
    path, other = tmp_path / "v", other_world("--uts")
    with running(other + failing(NO_LOCKS, None, HOLD, path, "elsewhere")) as first:
        number = int(first.stdout.readline())
        os.kill(number, signal.SIGKILL)
    (output,) = run(failing(NO_LOCKS, None, GO_ON, path))
    assert f"by process {number} on elsewhere, since 20" in output
    assert "If it was killed, repeat the call on its host." in output
    assert_right(path)
    moved = "import socket; socket.sethostname('elsewhere')" + GO_ON
    assert run(other + failing(NO_LOCKS, None, moved, path)) == ["done"]
    assert_goes_on(path, undisturbed)


def test_a_killed_writer_that_had_the_number_of_this_process(tmp_path, undisturbed):
    """In containers, processes have the same few numbers again and again."""
    path, container = tmp_path / "v", other_world("--pid", "--fork")
    killed = subprocess.run(
        container + failing(NO_LOCKS, None, KILL_ITSELF, path), env=environment()
    )
    assert killed.returncode
    assert_right(path)
    assert run(container + failing(NO_LOCKS, None, GO_ON, path)) == ["done"]
    assert_goes_on(path, undisturbed)


FULL_AND_AGAIN = """
import sys
from pathlib import Path
from layertap.errors import StoreError
from layertap.store.writing.writer import Writer
from tests.support.faults import Disk
from tests.support import faulty_store as t
path = Path(sys.argv[1])
writer = t.begin(path)
with Disk(path.parent).filled():
    assert "No space left" in str(t.error_of(t.write_all, writer))
t.write_all(Writer.resume(path, memory=t.MEMORY))
print("done")
"""


def test_the_same_process_goes_on_where_nothing_can_be_locked(disk, undisturbed):
    path = disk.path / "v"
    assert run(failing(NO_LOCKS, None, FULL_AND_AGAIN, path)) == ["done"]
    assert_goes_on(path, undisturbed)


CREATE_WITH_A_PAUSE = """
import sys
from layertap.errors import StoreError
from layertap.store.writing.writer import Writer
from tests.support import faulty_store as t

left = None

def audit(event, arguments):
    global left
    if left is None or not event.startswith(("os.", "open", "shutil.", "socket.")):
        return
    left -= 1
    if left < 0:
        left = None
        print("paused at", event, *arguments[:1], flush=True)
        sys.stdin.readline()

sys.addaudithook(audit)
for number, path in enumerate(sys.argv[1:]):
    left = number
    try:
        writer = Writer.create(path, t.ARRAYS, {"x": 1}, memory=t.MEMORY)
    except StoreError as error:
        left = None
        print(error, flush=True)
        continue
    if left is not None:
        break
    print("made", flush=True)
    sys.stdin.readline()
    t.write_from_the_start(writer)
    print("ended", flush=True)
print("no more", flush=True)
"""


def test_two_that_create_one_store_at_once(tmp_path, undisturbed):
    """The second comes at any moment in the course of the first, and tries it all."""
    paths = [tmp_path / str(number) / "v" for number in range(60)]
    for path in paths:
        path.parent.mkdir()
    output, won = [], {"first": 0, "second": 0}
    with running(python(CREATE_WITH_A_PAUSE, *paths)) as first:
        for path in paths:
            paused = first.stdout.readline().replace(str(tmp_path), "")
            if not paused.startswith("paused at"):
                break
            second = None
            try:
                second = Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY)
            except StoreError as error:
                refused = str(error)
            first.stdin.write("go on\n")
            outcome = first.stdout.readline().strip()
            assert (outcome == "made") == (second is None), (paused, outcome)
            if second is None:
                won["first"] += 1
                winner = first.pid
                first.stdin.write("go on\n")
                assert first.stdout.readline() == "ended\n"
            else:
                won["second"] += 1
                winner, refused = os.getpid(), outcome
                write_from_the_start(second)
            output.append((paused, winner, path, refused))
            assert_goes_on(path, undisturbed)
            assert list(path.parent.iterdir()) == [path], paused
    assert min(won.values()) > 0, won
    assert "no more" in paused
    # The message names the other one, at any moment.
    not_named = [
        (paused, refused)
        for paused, winner, path, refused in output
        if f"{path} is being written already, by process {winner} on {HERE}, since"
        not in refused
    ]
    assert not not_named
