"""A disk, a right or a limit that fails under a store: reported, and nothing is lost.

Whatever fails: the error is a `StoreError` with the path and what to do, the rows that
were committed stay right, and the same call continues when the cause is gone.
"""

import shutil

import numpy as np
import pytest

from layertap.errors import StoreError
from layertap.store.location import remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.faults import few_files, small_disk, unprivileged
from tests.support.faulty_store import (
    ADVICE,
    ARRAYS,
    MEMORY,
    SAFE,
    TOTAL,
    assert_explained,
    assert_goes_on,
    assert_right,
    begin,
    error_of,
    go_on,
    leave,
    leave_complete,
    resume,
    rows_between,
    rows_reported,
    write_all,
)

pytestmark = pytest.mark.slow


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
        shortage: See the fixture.
        before: Is called with the path first, while there is enough.
        action: Is called with the result of `before` then.

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
            # With one file, by luck: they are written at the same time, or nearly.
            assert number
            assert_right(path, 0)
            return
        yield path, error
        shutil.rmtree(path)


def test_too_little_to_create_a_store(shortage, undisturbed):
    def create(path):
        Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY).close()

    for path, error in failures(shortage, lambda path: path, create):
        assert_explained(error, path, shortage[1])
        assert not path.exists()
        leave(path)
        # Without open files, nothing could be deleted. Now it has been.
        assert list(path.parent.iterdir()) == [path]
        assert_goes_on(path, undisturbed)


def test_too_little_to_go_on_writing(shortage, undisturbed):
    for path, error in failures(shortage, begin, write_all):
        assert_explained(error, path, shortage[1])
        assert_right(path, rows_reported(error))
        assert_goes_on(path, undisturbed)


@pytest.mark.parametrize("prepare", [leave, leave_complete])
def test_too_little_to_resume(shortage, undisturbed, prepare):
    for path, error in failures(shortage, prepare, lambda p: write_all(resume(p))):
        assert str(path) in str(error)
        assert ADVICE[shortage[1]] in str(error)
        assert_right(path)
        assert_goes_on(path, undisturbed)


def test_a_resume_that_fails_says_how_many_rows_are_safe(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path = leave(disk.path / "v")
        with disk.filled(), pytest.raises(StoreError) as caught:
            Writer.resume(path)
    assert rows_reported(caught.value) == SAFE


def test_no_file_can_be_opened_to_read_from(tmp_path):
    reader = Reader(leave(tmp_path / "v"))
    with few_files(0):
        for action in (
            lambda: Reader(reader.path),
            lambda: reader.array("a/0")[:],
            reader.sizes,
            reader.check_groups,
        ):
            with pytest.raises(StoreError, match="Too many open files") as caught:
                action()
            assert str(reader.path) in str(caught.value)
            assert "Raise the limit on open files" in str(caught.value)
        ((_, first), *_) = reader.array("a/1").check()
        assert "Too many open files" in str(first)
    assert np.array_equal(reader.array("a/0")[:], rows_between(0, SAFE)["a/0"])
    assert_right(reader.path)


def test_a_disk_that_is_read_only_for_a_time(disk, undisturbed):
    path = disk.path / "v"
    writer = begin(path)
    disk.remount("ro")
    error = error_of(write_all, writer)
    assert_explained(error, path, "EROFS")
    assert rows_reported(error) == SAFE
    assert_right(path)
    for action in (Writer.resume, remove):
        with pytest.raises(StoreError, match=f"{path} could not .*Read-only") as caught:
            action(path)
    assert_right(path)
    with pytest.raises(StoreError) as caught:
        begin(disk.path / "other")
    assert_explained(caught.value, disk.path / "other", "EROFS")
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
    assert_explained(error, path, "EROFS")
    assert rows_reported(error) == TOTAL
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
        with pytest.raises(StoreError) as caught, writer:
            go_on(writer)
        assert_explained(caught.value, path, "EACCES")
        assert rows_reported(caught.value) == (
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
    with pytest.raises(StoreError) as caught:
        Writer.resume(path)
    assert_explained(caught.value, path, "EACCES")
    for folder, bits in zip(folders, before, strict=True):
        folder.chmod(bits)
    assert_goes_on(path, undisturbed)


def test_a_store_that_can_not_be_deleted_is_where_the_error_says(home):
    path = leave(home / "v")
    mode(path / "a/0", 0o555)
    with pytest.raises(
        StoreError,
        match=r"could not be deleted, .* now at .*: Permission denied",
    ) as e:
        remove(path)
    assert any(str(left) in str(e.value) for left in home.iterdir())


@pytest.mark.parametrize("left", [0, 1])
def test_no_file_can_be_opened_to_delete(tmp_path, left):
    path = leave(tmp_path / "v")
    with (
        few_files(left),
        pytest.raises(StoreError, match="Too many open files") as caught,
    ):
        remove(path)
    assert type(caught.value) is StoreError
    assert any(str(there) in str(caught.value) for there in tmp_path.iterdir())


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
        ) as caught:
            action(path)
        assert str(path) in str(caught.value)
        assert "Check who may read there" in str(caught.value)
    (path / name).chmod(before)
    assert_goes_on(path, undisturbed)


@pytest.mark.parametrize("action", [Writer.resume, remove])
def test_a_store_of_which_the_folder_may_not_be_listed(home, undisturbed, action):
    path = leave(home / "v")
    before = mode(path, 0o311)
    with pytest.raises(StoreError, match="Permission denied") as caught:
        action(path)
    assert type(caught.value) is StoreError
    assert str(path) in str(caught.value)
    path.chmod(before)
    assert_goes_on(path, undisturbed)


def test_a_shard_that_may_not_be_read(home):
    path = leave(home / "v")
    reader = Reader(path)
    before = mode(path / "a/0/c.0.0", 0)
    with pytest.raises(StoreError, match="Permission denied") as caught:
        reader.array("a/0")[:]
    assert type(caught.value) is StoreError
    assert str(path / "a/0") in str(caught.value)
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
    with pytest.raises(StoreError) as caught:
        begin(home / name)
    assert "Permission denied" in str(caught.value)
    assert str(home / name) in str(caught.value)
    assert "Check who may" in str(caught.value)
    home.chmod(before)
    assert not list(home.iterdir())
    assert_right(leave(home / name))
