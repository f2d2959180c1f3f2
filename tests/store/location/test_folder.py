"""The folder of a store: links in it, leftovers next to it, and its lock."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from layertap.errors import StoreCorruptError, StoreError
from layertap.store.location import remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.store_folder import Folder
from tests.support.store_rows import ARRAYS, assert_holds, contents_of, rows_between

WRITE = """
import os, signal, sys
import numpy as np
from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
arrays = [ArraySpec("a", (), "int8")]
values = {"a": np.ones(3, "int8")}
"""

FORK_AND_WAIT = """
with Writer.create(sys.argv[1], arrays, {}) as writer:
    writer.append(values)
    writer.commit()
    if not os.fork():
        print(os.getpid(), flush=True)
    signal.pause()
"""

FORK_AND_GO_ON = """
with Writer.create(sys.argv[1], arrays, {}) as writer:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    print("forked", flush=True)
    sys.stdin.readline()
    writer.append(values)
    writer.finish()
"""

# The child leaves the `with` statement when its parent has finished.
FORK_AND_LEAVE = """
finished, tell = os.pipe()
with Writer.create(sys.argv[1], arrays, {}) as writer:
    writer.append(values)
    child = os.fork()
    if not child:
        os.read(finished, 1)
        sys.exit()
    writer.finish()
os.write(tell, b"!")
os.waitpid(child, 0)
"""

# The child uses the writer of its parent.
FORK_AND_WRITE = """
with Writer.create(sys.argv[1], arrays, {}) as writer:
    child = os.fork()
    if not child:
        try:
            writer.append(values)
            writer.finish()
        except OSError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""

HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def make(path, rows=3, finish=False):
    with Writer.create(path, ARRAYS, {}) as writer:
        writer.append(rows_between(0, rows))
        writer.commit()
        if finish:
            writer.finish()


def start(script, path):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("place", ["join", "join/in", "join/in/1", "labels"])
def test_a_folder_that_is_a_link_out_of_the_store(tmp_path, place):
    make(tmp_path / "v")
    outside = tmp_path / "outside"
    (tmp_path / "v" / place).rename(outside)
    (tmp_path / "v" / place).symlink_to(outside)
    before = contents_of_folder(outside)
    for action in (Reader, Writer.resume):
        with pytest.raises(StoreCorruptError, match="leads out of the store, by a li"):
            action(tmp_path / "v")
    with pytest.raises(StoreError, match="does not belong to it"):
        remove(tmp_path / "v")
    assert contents_of_folder(outside) == before


def contents_of_folder(path):
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file): file.read_bytes() for file in files}


def test_a_folder_that_is_a_link_to_another_array(tmp_path):
    make(tmp_path / "v")
    shutil.rmtree(tmp_path / "v/join/in/1")
    (tmp_path / "v/join/in/1").symlink_to(tmp_path / "v/join/in/0")
    with pytest.raises(StoreCorruptError, match=r"in/1/zarr\.json leads out"):
        Reader(tmp_path / "v")


def test_a_marker_that_is_a_link(tmp_path):
    make(tmp_path / "v")
    marker = tmp_path / "v/labels/zarr.json"
    marker.rename(tmp_path / "marker.json")
    marker.symlink_to(tmp_path / "marker.json")
    before = (tmp_path / "marker.json").read_bytes()
    for action in (Reader, Writer.resume):
        with pytest.raises(StoreCorruptError, match=r"labels/zarr\.json leads out"):
            action(tmp_path / "v")
    assert (tmp_path / "marker.json").read_bytes() == before


def test_a_store_that_is_reached_by_a_link(tmp_path):
    make(tmp_path / "v")
    (tmp_path / "link").symlink_to(tmp_path / "v")
    with Writer.resume(tmp_path / "link") as writer:
        writer.append(rows_between(3, 5))
        writer.finish()
    assert_holds(Folder(tmp_path / "link"), 5)
    assert_holds(Folder(tmp_path / "v"), 5)


@pytest.mark.parametrize(
    "name",
    [
        "zarr.json.new",
        "labels/zarr.json.new",
        "labels/c.0.new",
        "labels/c.1",
        "labels/c.1.new",
    ],
)
def test_nothing_is_written_through_a_link(tmp_path, name):
    make(tmp_path / "v")
    outside = tmp_path / "precious"
    outside.write_text("mine")
    (tmp_path / "v" / name).symlink_to(outside)
    with Writer.resume(tmp_path / "v") as writer:
        if name.endswith(".new") and "c.1" not in name:  # What it found is gone.
            (tmp_path / "v" / name).symlink_to(outside)
        writer.append(rows_between(3, 30))
        writer.finish()
    assert outside.read_text() == "mine"
    assert not [file for file in (tmp_path / "v").rglob("*") if file.is_symlink()]
    assert_holds(Folder(tmp_path / "v"), 30)


@pytest.mark.parametrize("purpose", ["creating", "removing"])
@pytest.mark.parametrize("name", ["v", "v[1]*?"])
def test_what_killed_processes_left_is_swept(tmp_path, purpose, name):
    left = tmp_path / f".{name}.0123abcd.{purpose}"
    make(left)
    for other in (f".w.0123abcd.{purpose}", f"{name}.0123abcd.{purpose}", ".v.mine"):
        (tmp_path / other).mkdir()
    before = {file.name for file in tmp_path.iterdir()}
    make(tmp_path / name)
    after = {file.name for file in tmp_path.iterdir()}
    assert after == (before | {name}) - {left.name}


@pytest.mark.parametrize("purpose", ["creating", "removing"])
def test_what_a_living_process_holds_is_not_swept(tmp_path, purpose):
    held = tmp_path / f".v.0123abcd.{purpose}"
    make(held)
    before = contents_of(Folder(held))
    with start(HOLD, held) as process:
        assert process.stdout.readline() == "held\n"
        make(tmp_path / "v")
        assert contents_of(Folder(held)) == before
        process.communicate("end\n")
    shutil.rmtree(tmp_path / "v")
    make(tmp_path / "v")
    assert not held.exists()


def test_the_lock_ends_with_its_process_though_a_child_lives_on(tmp_path):
    with start(WRITE + FORK_AND_WAIT, tmp_path / "v") as process:
        child = int(process.stdout.readline())
        try:
            who = f"by process {process.pid} on "
            with pytest.raises(StoreError, match=f"is being written already, {who}"):
                Writer.resume(tmp_path / "v")
            process.send_signal(signal.SIGKILL)
            process.wait()
            with Writer.resume(tmp_path / "v") as writer:
                assert writer.rows == 3
                os.kill(child, 0)  # It is there still.
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)


def test_a_child_that_ends_does_not_end_the_lock(tmp_path):
    with start(WRITE + FORK_AND_GO_ON, tmp_path / "v") as process:
        assert process.stdout.readline() == "forked\n"
        for action in (Writer.resume, remove):
            with pytest.raises(StoreError, match="is being written already"):
                action(tmp_path / "v")
        process.communicate("go on\n")
    assert process.returncode == 0
    assert Reader(tmp_path / "v").complete
    assert Reader(tmp_path / "v").rows == 3


def test_a_child_that_leaves_the_with_statement_changes_nothing(tmp_path):
    with start(WRITE + FORK_AND_LEAVE, tmp_path / "v") as process:
        process.communicate()
    assert process.returncode == 0
    assert Reader(tmp_path / "v").rows == 3
    assert Reader(tmp_path / "v").complete


def test_a_child_can_not_write_beside_its_parent(tmp_path):
    with start(WRITE + FORK_AND_WRITE, tmp_path / "v") as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    assert Reader(tmp_path / "v").rows == 0
    assert not Reader(tmp_path / "v").complete
    assert str(tmp_path / "v") in output


def test_a_folder_that_others_have_locked_is_left_alone(tmp_path):
    make(tmp_path / "v")
    before = contents_of(Folder(tmp_path / "v"))
    descriptor = os.open(tmp_path / "v", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for action in (Writer.resume, remove):
            with pytest.raises(StoreError, match="written already, by another process"):
                action(tmp_path / "v")
    finally:
        os.close(descriptor)
    assert contents_of(Folder(tmp_path / "v")) == before
