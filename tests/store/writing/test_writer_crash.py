"""A store after a crash: it has complete rows, and a resume ends as without a crash."""

import inspect
import itertools
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import zarr

from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import share
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of

pytestmark = pytest.mark.slow

ARRAYS = [
    ArraySpec("a/0", (300,), "float32"),
    ArraySpec("a/1", (), "int32"),
    ArraySpec("b", (7, 4), "uint8"),
]
ROW_BYTES = 1200 + 4 + 28
BLOCK = 32
TOTAL = 1000


def rows_between(start, stop):
    """The rows from one number up to another, of all arrays."""
    rows = np.arange(start, stop)
    return {
        "a/0": np.cos(rows[:, None] + np.arange(300.0)).astype("float32"),
        "a/1": rows.astype("int32") + 1,
        "b": (rows[:, None, None] * 5 + np.arange(28).reshape(7, 4)).astype("uint8"),
    }


IMPORTS = """
import itertools, resource, sys
import numpy as np
from layertap.errors import StoreError
from layertap.store.writing.writer import Writer
"""

WRITE_FOR_EVER = """
path, batch, commit_every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
writer = Writer.resume(path)
for step in itertools.count(1):
    writer.append(rows_between(writer.rows, writer.rows + batch))
    if commit_every and step % commit_every == 0:
        writer.commit()
    print(writer.committed, flush=True)
"""

WRITE_UNTIL_INTERRUPTED = """
writer = Writer.resume(sys.argv[1])
try:
    while True:
        writer.append(rows_between(writer.rows, writer.rows + 50))
        print(writer.committed, flush=True)
except KeyboardInterrupt:
    writer.commit()
    writer.close()
    print("committed", writer.rows, flush=True)
"""

FILL_THE_DISK = """
path = sys.argv[1]
writer = Writer.resume(path)
writer.append(rows_between(0, 40))
writer.commit()
# A file that grows beyond this fails, as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    while True:
        writer.append(rows_between(writer.rows, writer.rows + 40))
except StoreError as error:
    print(error)
"""


def child(script, path, *arguments):
    program = IMPORTS + inspect.getsource(rows_between) + script
    return [sys.executable, "-c", program, str(path), *map(str, arguments)]


def create(path):
    return Writer.create(path, ARRAYS, {"x": 1}, memory=3 * BLOCK * ROW_BYTES)


def assert_first_rows_are_right(path):
    """Asserts that whatever anyone can see is right; returns how many rows."""
    reader = Reader(path)
    group = zarr.open_group(path, mode="r")
    for name, expected in rows_between(0, TOTAL * 10).items():
        found = reader.array(name)[:]
        assert np.array_equal(found, expected[: reader.rows])
        shown = group[name][:]
        assert len(shown) >= reader.rows
        assert np.array_equal(shown, expected[: len(shown)])
    return reader.rows


def finish_and_compare(path, tmp_path):
    """Asserts that a resumed store equals one whose writer was never stopped."""
    with Writer.resume(path) as writer:
        total = max(TOTAL, writer.rows + 45)
        for start in range(writer.rows, total, 17):
            writer.append(rows_between(start, min(start + 17, total)))
        writer.finish(lambda: {"y": 2})
    with create(tmp_path / "once") as writer:
        writer.append(rows_between(0, total))
        writer.finish(lambda: {"y": 2})
    assert contents_of(Folder(path)) == contents_of(Folder(tmp_path / "once"))
    assert assert_first_rows_are_right(path) == total


@pytest.mark.parametrize(
    ("lines", "batch", "commit_every"),
    share(2, [(1, 50, 0), (3, 7, 2), (25, 64, 0), (11, 33, 1)]),
)
def test_kill_in_the_middle_of_writing(tmp_path, lines, batch, commit_every):
    path = tmp_path / "v"
    create(path).close()
    process = subprocess.Popen(
        child(WRITE_FOR_EVER, path, batch, commit_every), stdout=subprocess.PIPE
    )
    with process:
        output = [int(process.stdout.readline()) for _ in range(lines)]
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    rows = assert_first_rows_are_right(path)
    assert rows >= output[-1]
    finish_and_compare(path, tmp_path)


@pytest.mark.parametrize("lines", share(2, [1, 8, 30]))
def test_interrupt_in_the_middle_of_writing(tmp_path, lines):
    path = tmp_path / "v"
    create(path).close()
    process = subprocess.Popen(
        child(WRITE_UNTIL_INTERRUPTED, path), stdout=subprocess.PIPE
    )
    with process:
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read().split()
    assert process.returncode == 0
    assert output[-2] == b"committed"
    assert assert_first_rows_are_right(path) == int(output[-1])
    finish_and_compare(path, tmp_path)


def test_full_disk(tmp_path):
    path = tmp_path / "v"
    create(path).close()
    done = subprocess.run(
        child(FILL_THE_DISK, path), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path} could not be written: File too large. ")
    assert "Its 40 rows so far are safe." in done.stdout
    assert assert_first_rows_are_right(path) == 40
    finish_and_compare(path, tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "renamed"),
    share(
        4,
        list(itertools.product((0, 40, 64), (96, 200), ([], ["a/0"], ["a/1", "b"]))),
    ),
)
def test_crash_between_two_files(tmp_path, before, after, renamed):
    """All shards are there, but only some `zarr.json` count the rows in them."""
    path = tmp_path / "v"
    with create(path) as writer:
        writer.append(rows_between(0, before))
        writer.commit()
        for array in ARRAYS:
            file = path / array.path / "zarr.json"
            shutil.copy(file, tmp_path / array.path.replace("/", "-"))
        writer.append(rows_between(before, after))
        writer.commit()
    for array in ARRAYS:
        if array.path not in renamed:
            earlier = tmp_path / array.path.replace("/", "-")
            shutil.copy(earlier, path / array.path / "zarr.json")
    (path / "b/zarr.json.new").write_text('{"half')
    (path / "zarr.json.new").write_text("")
    (path / "a/0/c.99.0.new").write_bytes(b"x" * 100)
    assert assert_first_rows_are_right(path) == before
    # Nobody is to count on rows that are going to be written again.
    Writer.resume(path).close()
    members = dict(zarr.open_group(path, mode="r").members(max_depth=None))
    assert all(members[array.path].shape[0] == before for array in ARRAYS)
    finish_and_compare(path, tmp_path)


def test_what_is_behind_the_committed_rows_is_not_trusted(tmp_path):
    path = tmp_path / "v"
    with create(path) as writer:
        writer.append(rows_between(0, 40))
        writer.commit()
    for name in ("a/0/c.2.0", "a/1/c.2", "b/c.2.0.0"):
        (path / name).write_bytes(b"not a shard")
    assert assert_first_rows_are_right(path) == 40
    finish_and_compare(path, tmp_path)


INTERRUPTED_AT_ITS_END = """
import os, signal, threading

path, gate, closing = sys.argv[1], threading.Event(), threading.Event()

def audit(event, arguments):
    # A block is about to be committed: Ctrl-C, and a slow disk.
    committing = event == "os.rename" and str(arguments[1]).endswith("zarr.json")
    if committing and closing.is_set() and not gate.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        gate.wait()

writer = Writer.resume(path)
writer.append(rows_between(0, 32))
sys.addaudithook(audit)
try:
    closing.set()
    writer.close()
except KeyboardInterrupt:
    print("interrupted", flush=True)
try:
    Writer.resume(path)
except StoreError as error:
    print("refused" if "is being written already" in str(error) else error)
gate.set()
for thread in threading.enumerate():
    if thread.name == "layertap-end":
        thread.join()
with Writer.resume(path) as other:
    print(other.rows)
    other.append(rows_between(other.rows, 1000))
    other.finish()
"""


def test_a_close_that_is_interrupted_lets_no_other_writer_in_too_early(tmp_path):
    path = tmp_path / "v"
    create(path).close()
    done = subprocess.run(
        child(INTERRUPTED_AT_ITS_END, path), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["interrupted", "refused", "32"], done.stderr
    assert assert_first_rows_are_right(path) == 1000
    assert Reader(path).complete
