"""A disk, a right or a limit that fails under a store: told, and nothing is lost.

Whatever fails: the error is a `StoreError` with the path and what to do, the rows that
were committed stay right, and the same goes on when the cause is gone.
"""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess

import numpy as np
import pytest
import zarr

import faults
from faults import failing, few_files, python, run, running, small_disk, unprivileged
from layertap.errors import StoreError
from layertap.store import ArraySpec, Reader, Writer, remove
from store_folder import Folder
from store_suite import contents_of

ARRAYS = [ArraySpec("a/0", (300,), "float32"), ArraySpec("a/1", (), "int32")]
BLOCK = 32
MEMORY = 3 * BLOCK * 1204
SAFE, TOTAL = 40, 150
ADVICE = {
    "ENOSPC": "Free some space",
    "EDQUOT": "Free some space",
    "EACCES": "Check who may write there",
    "EPERM": "Check who may write there",
    "EROFS": "Make the disk writable",
    "EMFILE": "Raise the limit on open files",
    "ENFILE": "Raise the limit on open files",
    "EIO": "Check the disk",
}


def rows_between(start, stop):
    rows = np.arange(start, stop)
    return {
        "a/0": np.cos(rows[:, None] + np.arange(300.0)).astype("float32"),
        "a/1": rows.astype("int32") + 1,
    }


def begin(path):
    """Makes a store and commits some rows, the last of them in a block with room."""
    writer = Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY)
    writer.append(rows_between(0, SAFE))
    writer.commit()
    return writer


def go_on(writer):
    """Writes all the rest, batch by batch."""
    for start in range(writer.rows, TOTAL, 25):
        writer.append(rows_between(start, min(start + 25, TOTAL)))
    writer.finish()


def leave(path):
    """Makes a store with some rows, and leaves it."""
    begin(path).close()
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is in a store that nothing has happened to."""
    path = tmp_path_factory.mktemp("undisturbed") / "v"
    with begin(path) as writer:
        go_on(writer)
    return contents_of(Folder(path))


def rows_told(error):
    """The number of rows that are safe, as an error says."""
    found = re.search(r"Its ([\d,]+) rows so far are safe\. ", str(error))
    assert found, error
    return int(found[1])


def assert_told(error, path, code):
    """Asserts that an error says what is wrong where, and what to do."""
    message = str(error)
    assert type(error) is StoreError
    assert message.startswith(f"{path} could not be written: ")
    assert os.strerror(getattr(errno, code)) in message
    assert ADVICE[code] in message
    assert message.endswith(", then do the same again.")


def error_of(action, *arguments):
    """The error that an action raises, if it does, which has to be a `StoreError`."""
    try:
        action(*arguments)
    except StoreError as error:
        return error
    return None


def write_all(writer):
    with writer:
        go_on(writer)


def assert_right(path, least=SAFE):
    """Asserts that what can be seen is right, in zarr-python, too."""
    reader = Reader(path)
    assert reader.rows >= least
    group = zarr.open_group(path, mode="r")
    for name, expected in rows_between(0, TOTAL).items():
        assert all(error is None for _, error in reader.array(name).check())
        found = reader.array(name)[:]
        assert np.array_equal(found, expected[: reader.rows])
        shown = group[name][:]
        assert len(shown) >= reader.rows
        assert np.array_equal(shown, expected[: len(shown)])


def assert_goes_on(path, undisturbed):
    """Asserts that the same store comes out as if nothing had happened."""
    if not Reader(path).complete:
        with Writer.resume(path, memory=MEMORY) as writer:
            go_on(writer)
    assert_right(path, TOTAL)
    assert contents_of(Folder(path)) == undisturbed


@pytest.fixture(params=["space", "inodes", "open files"])
def shortage(request, tmp_path):
    """A small disk, the error of a shortage, and a function that gives shortages.

    There is nothing left in the first, one in the second, and so on.
    """
    with small_disk(tmp_path / "disk", "size=2m,nr_inodes=100") as disk:
        code, shorten = {
            "space": ("ENOSPC", lambda left: disk.filled(left)),
            "inodes": ("ENOSPC", lambda left: disk.without_inodes(left)),
            "open files": ("EMFILE", few_files),
        }[request.param]
        yield disk, code, (shorten(left) for left in range(100))


def failures(shortage, before, action):
    """Does something with nothing left, with more, and so on, until it is enough.

    Args:
        shortage: As of the fixture.
        before: What is done before, while there is enough; it is given the path.
        action: What is done then. It is given what comes of that.

    Yields:
        The path of the store, and the error that came of it.
    """
    disk, _, shortages = shortage
    for number, short in enumerate(shortages):
        path = disk.path / f"v{number}"
        prepared = before(path)
        with short:
            error = error_of(action, prepared)
        if error is None:
            assert number > 1
            assert_right(path, 0)
            return
        yield path, error
        shutil.rmtree(path)


def test_too_little_to_create_a_store(shortage, undisturbed):
    def create(path):
        Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY).close()

    for path, error in failures(shortage, lambda path: path, create):
        assert_told(error, path, shortage[1])
        assert not path.exists()
        leave(path)
        # Without open files, nothing could be deleted. Now it has been.
        assert list(path.parent.iterdir()) == [path]
        assert_goes_on(path, undisturbed)


def test_too_little_to_go_on_writing(shortage, undisturbed):
    for path, error in failures(shortage, begin, write_all):
        assert_told(error, path, shortage[1])
        assert_right(path, rows_told(error))
        assert_goes_on(path, undisturbed)


def test_too_little_to_resume(shortage, undisturbed):
    def resume(path):
        write_all(Writer.resume(path, memory=MEMORY))

    for path, error in failures(shortage, leave, resume):
        assert str(path) in str(error)
        assert ADVICE[shortage[1]] in str(error)
        assert_right(path)
        assert_goes_on(path, undisturbed)


def test_a_resume_that_fails_says_how_many_rows_are_safe(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path = leave(disk.path / "v")
        with disk.filled(), pytest.raises(StoreError) as told:
            Writer.resume(path)
    assert rows_told(told.value) == SAFE


def test_no_file_can_be_opened_to_read_from(tmp_path):
    reader = Reader(leave(tmp_path / "v"))
    with few_files(0):
        for action in (
            lambda: Reader(reader.path),
            lambda: reader.array("a/0")[:],
            reader.members,
            reader.check_groups,
        ):
            with pytest.raises(StoreError, match="Too many open files") as told:
                action()
            assert str(reader.path) in str(told.value)
            assert "Raise the limit on open files" in str(told.value)
        ((_, first), *_) = reader.array("a/1").check()
        assert "Too many open files" in str(first)
    assert np.array_equal(reader.array("a/0")[:], rows_between(0, SAFE)["a/0"])
    assert_right(reader.path)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def test_a_disk_that_is_read_only_for_a_time(disk, undisturbed):
    path = disk.path / "v"
    writer = begin(path)
    disk.remount("ro")
    error = error_of(write_all, writer)
    assert_told(error, path, "EROFS")
    assert rows_told(error) == SAFE
    assert_right(path)
    for action in (Writer.resume, remove):
        with pytest.raises(StoreError, match=f"{path} could not .*Read-only") as told:
            action(path)
    assert_right(path)
    with pytest.raises(StoreError) as told:
        begin(disk.path / "other")
    assert_told(told.value, disk.path / "other", "EROFS")
    disk.remount("rw")
    assert_goes_on(path, undisturbed)
    assert list(disk.path.iterdir()) == [path]


def test_a_disk_that_is_read_only_before_the_store_is_complete(disk, undisturbed):
    path = disk.path / "v"
    writer = begin(path)
    writer.append(rows_between(SAFE, TOTAL))
    writer.commit()
    disk.remount("ro")
    error = error_of(write_all, writer)
    assert_told(error, path, "EROFS")
    assert rows_told(error) == TOTAL
    assert not Reader(path).complete
    disk.remount("rw")
    assert_goes_on(path, undisturbed)


@pytest.fixture
def home():
    """The folder of somebody without root's rights, which this process is now."""
    with unprivileged() as folder:
        yield folder


def mode(path, bits):
    """Returns the rights that were there before."""
    before = path.stat().st_mode
    path.chmod(bits)
    return before


@pytest.mark.parametrize("bits", [0o555, 0o000])
@pytest.mark.parametrize("folder", ["", "a", "a/0", "a/1"])
def test_the_right_to_write_is_taken_away(home, undisturbed, folder, bits):
    path = home / "v"
    writer = begin(path)
    before = mode(path / folder, bits)
    if folder == "a" and bits == 0o555:
        # Nothing is written right there.
        with writer:
            go_on(writer)
    else:
        with pytest.raises(StoreError) as told, writer:
            go_on(writer)
        assert_told(told.value, path, "EACCES")
        assert rows_told(told.value) == (
            TOTAL if (folder, bits) == ("", 0o555) else SAFE
        )
    (path / folder).chmod(before)
    assert_right(path)
    assert_goes_on(path, undisturbed)


def test_a_store_that_may_be_read_and_not_written(home, undisturbed):
    path = leave(home / "v")
    folders = [path, *(path / name for name in ("a", "a/0", "a/1"))]
    before = [mode(folder, 0o555) for folder in folders]
    assert_right(path)
    with pytest.raises(StoreError) as told:
        Writer.resume(path)
    assert_told(told.value, path, "EACCES")
    for folder, bits in zip(folders, before, strict=True):
        folder.chmod(bits)
    assert_goes_on(path, undisturbed)


def test_a_store_that_can_not_be_deleted_is_where_the_error_says(home):
    path = leave(home / "v")
    mode(path / "a/0", 0o555)
    with pytest.raises(
        StoreError, match=r"could not be deleted and is now .*: Permission denied"
    ) as e:
        remove(path)
    assert any(str(left) in str(e.value) for left in home.iterdir())


@pytest.mark.parametrize("left", [0, 1])
def test_no_file_can_be_opened_to_delete(tmp_path, left):
    path = leave(tmp_path / "v")
    with (
        few_files(left),
        pytest.raises(StoreError, match="Too many open files") as told,
    ):
        remove(path)
    assert type(told.value) is StoreError
    assert any(str(there) in str(told.value) for there in tmp_path.iterdir())


def test_what_a_store_can_not_be_searched_for_is_not_deleted(tmp_path):
    path = leave(tmp_path / "v")
    (path / "a/0/mine").write_text("mine")
    with few_files(1), pytest.raises(StoreError):
        remove(path)
    begin(path).close() if not path.exists() else None
    assert [file.read_text() for file in tmp_path.rglob("mine")] == ["mine"]


@pytest.mark.parametrize("name", ["", "a", "a/0", "zarr.json", "a/1/zarr.json"])
def test_a_store_that_may_not_be_read(home, undisturbed, name):
    path = leave(home / "v")
    before = mode(path / name, 0)
    for action in (Reader, Writer.resume):
        with pytest.raises(
            StoreError, match="can't be read: Permission denied"
        ) as told:
            action(path)
        assert str(path) in str(told.value)
        assert "Check who may read there" in str(told.value)
    (path / name).chmod(before)
    assert_goes_on(path, undisturbed)


@pytest.mark.parametrize("action", [Writer.resume, remove])
def test_a_store_of_which_the_folder_may_not_be_listed(home, undisturbed, action):
    path = leave(home / "v")
    before = mode(path, 0o311)
    with pytest.raises(StoreError, match="Permission denied") as told:
        action(path)
    assert type(told.value) is StoreError
    assert str(path) in str(told.value)
    path.chmod(before)
    assert_goes_on(path, undisturbed)


def test_a_shard_that_may_not_be_read(home):
    path = leave(home / "v")
    reader = Reader(path)
    before = mode(path / "a/0/c.0.0", 0)
    with pytest.raises(StoreError, match="Permission denied") as told:
        reader.array("a/0")[:]
    assert type(told.value) is StoreError
    assert str(path / "a/0") in str(told.value)
    # The block that is not full.
    mode(path / "a/0/c.1.0", 0)
    with pytest.raises(StoreError, match="Permission denied"):
        Writer.resume(path)
    for shard in ("a/0/c.0.0", "a/0/c.1.0"):
        (path / shard).chmod(before)
    assert_right(path)


@pytest.mark.parametrize("bits", [0o555, 0o000])
@pytest.mark.parametrize("name", ["v", "deep/er/v"])
def test_a_folder_in_which_nothing_may_be_created(home, bits, name):
    before = mode(home, bits)
    with pytest.raises(StoreError) as told:
        begin(home / name)
    assert "Permission denied" in str(told.value)
    assert str(home / name) in str(told.value)
    assert "Check who may" in str(told.value)
    home.chmod(before)
    assert not list(home.iterdir())
    assert_right(leave(home / name))


GO_ON = """
import sys
from layertap.errors import StoreError
from layertap.store import Writer
from plain import test_store_faults as t
for path in sys.argv[1:]:
    try:
        t.write_all(Writer.resume(path, memory=t.MEMORY))
        print("done", flush=True)
    except StoreError as error:
        print(error, flush=True)
"""
# Where what is written: shards, what becomes of a `zarr.json`, and folders.
PLACES = [
    *("a/0/c.1.0.__lock", "a/1/c.2.__lock", "a/0/c.4.0.__lock"),
    *("a/0/zarr.json.new", "a/1/zarr.json.new", "zarr.json.new"),
]
FOLDERS = ["a/0", "a/1", ""]


@pytest.mark.parametrize(
    ("call", "code", "places"),
    [
        # A quota, which no file system here has to be used up, and the like.
        ("write,writev,pwrite64,pwritev", "EDQUOT", PLACES),
        ("write,writev,pwrite64,pwritev", "EIO", PLACES),
        ("fsync,fdatasync", "EDQUOT", PLACES),
        ("fsync,fdatasync", "EIO", PLACES + FOLDERS),
        ("rename,renameat,renameat2", "EDQUOT", PLACES),
        ("rename,renameat,renameat2", "EIO", PLACES),
        ("openat", "EDQUOT", PLACES),
        ("openat", "ENFILE", PLACES),
        ("openat", "EPERM", PLACES),
    ],
)
def test_a_call_of_the_system_that_fails(tmp_path, undisturbed, call, code, places):
    """Calls are made to fail by strace: no file system here has quotas, or breaks."""
    first = leave(tmp_path / "v")
    paths = [shutil.copytree(first, tmp_path / f"v{n}") for n in range(len(places))]
    failed = [path / place for path, place in zip(paths, places, strict=True)]
    told = run(failing({call: f"error={code}"}, failed, GO_ON, *paths))
    assert len(told) == len(places)
    for path, message in zip(paths, told, strict=True):
        assert_told(StoreError(message), path, code)
        assert_right(path)
        assert_goes_on(path, undisturbed)


READ = """
import sys
from layertap.errors import StoreError
from layertap.store import Reader
array = Reader(sys.argv[1]).array("a/0")
for action in (lambda: array[:], lambda: next(array.check())[1]):
    try:
        print(action(), flush=True)
    except StoreError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("pread64", "EIO"),
        ("openat", "EIO"),
        ("openat", "ENFILE"),
        ("pread64", "ESTALE"),
    ],
)
def test_a_call_of_the_system_that_fails_when_rows_are_read(tmp_path, call, code):
    path = leave(tmp_path / "v")
    told = run(failing({call: f"error={code}"}, [path / "a/0/c.0.0"], READ, path))
    assert len(told) == 2
    for message in told:
        assert str(path / "a/0") in message
        assert os.strerror(getattr(errno, code)) in message
        assert ADVICE.get(code, "Mend that") in message
    assert_right(path)


HOLD = """
import os, sys
from layertap.store import Writer
from plain import test_store_faults as t
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
from plain import test_store_faults as t
t.begin(sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""
REMOVE = """
import sys
from layertap.errors import StoreError
from layertap.store import remove
try:
    remove(sys.argv[1])
except StoreError as error:
    print(error)
"""
# What file systems over a network say.
NO_LOCKS = {"flock": "error=EBADF"}
HERE = socket.gethostname()


@pytest.mark.parametrize("code", ["EBADF", "ENOLCK", "ENOSYS"])
def test_a_second_writer_where_nothing_can_be_locked(tmp_path, undisturbed, code):
    path = tmp_path / "v"
    no_locks = {"flock": f"error={code}"}
    with running(failing(no_locks, None, HOLD, path, "")) as first:
        number = first.stdout.readline().strip()
        for action in (GO_ON, REMOVE):
            (told,) = run(failing(no_locks, None, action, path))
            first_one = f"by process {number} on {HERE}, since 20"
            assert told.startswith(f"{path} is being written already, {first_one}")
            assert "Wait until that has ended, or" in told
        first.stdin.write("go on\n")
        assert first.stdout.readline() == "ended\n"
    assert_goes_on(path, undisturbed)


def test_a_killed_writer_where_nothing_can_be_locked(tmp_path, undisturbed):
    path = tmp_path / "v"
    with running(failing(NO_LOCKS, None, HOLD, path, "")) as first:
        os.kill(int(first.stdout.readline()), signal.SIGKILL)
    assert run(failing(NO_LOCKS, None, GO_ON, path)) == ["done"]
    assert_goes_on(path, undisturbed)


def other_world(*namespaces):
    """Returns the command that puts another in namespaces of its own."""
    command = ["unshare", *namespaces]
    done = subprocess.run([*command, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine has no namespaces: {done.stderr.strip()}")
    return command


def test_a_killed_writer_of_another_host_where_nothing_can_be_locked(
    tmp_path, undisturbed
):
    path, other = tmp_path / "v", other_world("--uts")
    with running(other + failing(NO_LOCKS, None, HOLD, path, "elsewhere")) as first:
        number = int(first.stdout.readline())
        os.kill(number, signal.SIGKILL)
    (told,) = run(failing(NO_LOCKS, None, GO_ON, path))
    assert f"by process {number} on elsewhere, since 20" in told
    assert "If it was killed, the same call on its host goes on." in told
    assert_right(path)
    moved = "import socket; socket.sethostname('elsewhere')" + GO_ON
    assert run(other + failing(NO_LOCKS, None, moved, path)) == ["done"]
    assert_goes_on(path, undisturbed)


def test_a_killed_writer_that_had_the_number_of_this_process(tmp_path, undisturbed):
    """In containers, processes have the same few numbers again and again."""
    path, container = tmp_path / "v", other_world("--pid", "--fork")
    killed = subprocess.run(
        container + failing(NO_LOCKS, None, KILL_ITSELF, path), env=faults.ENVIRONMENT
    )
    assert killed.returncode
    assert_right(path)
    assert run(container + failing(NO_LOCKS, None, GO_ON, path)) == ["done"]
    assert_goes_on(path, undisturbed)


FULL_AND_AGAIN = """
import sys
from pathlib import Path
from layertap.errors import StoreError
from layertap.store import Writer
from faults import Disk
from plain import test_store_faults as t
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
from layertap.store import Writer
from plain import test_store_faults as t

left = None

def heard(event, arguments):
    global left
    if left is None or not event.startswith(("os.", "open", "shutil.", "socket.")):
        return
    left -= 1
    if left < 0:
        left = None
        print("paused at", event, *arguments[:1], flush=True)
        sys.stdin.readline()

sys.addaudithook(heard)
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


def write_from_the_start(writer):
    writer.append(rows_between(0, SAFE))
    writer.commit()
    write_all(writer)


def test_two_that_create_one_store_at_once(tmp_path, undisturbed):
    """The second comes at any moment in the course of the first, and tries it all."""
    paths = [tmp_path / str(number) / "v" for number in range(60)]
    for path in paths:
        path.parent.mkdir()
    told, won = [], {"first": 0, "second": 0}
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
            told.append((paused, winner, path, refused))
            assert_goes_on(path, undisturbed)
            assert list(path.parent.iterdir()) == [path], paused
    assert min(won.values()) > 0, won
    assert "no more" in paused
    # Whoever is refused is told of the other, at any moment.
    not_named = [
        (paused, refused)
        for paused, winner, path, refused in told
        if f"{path} is being written already, by process {winner} on {HERE}, since"
        not in refused
    ]
    assert not not_named
