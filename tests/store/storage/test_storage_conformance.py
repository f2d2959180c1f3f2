"""Every storage passes these tests: the files of a folder, the objects of a bucket."""

import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from layertap.errors import StoreCorruptError, StoreError
from layertap.store.storage.errors import TakenError
from layertap.store.storage.files import LocalStorage
from layertap.store.storage.lock import this_process
from layertap.store.storage.objects import ObjectStorage
from tests.support.object_store import LISTED_AT_ONCE
from tests.support.store_bucket import Bucket

# Names that a URL or a shell would change.
NAMES = ["zarr.json", "a/c.0.0", "a/b/zarr.json", "ab/ä b+%2F&=?.json", "~blocks/0.1"]
FOLDERS = ["a", "a/b", "ab", "~blocks"]


@pytest.fixture(params=["folder", "bucket"])
def new_storage(request, tmp_path):
    """Returns another storage of the same files at each call."""
    if request.param == "folder":
        folder = tmp_path / "v.zarr"
        folder.mkdir()
        return lambda: LocalStorage(folder)
    url = Bucket.new(request.getfixturevalue("object_store")).path
    return lambda: ObjectStorage.parse(url)


@pytest.fixture
def storage(new_storage):
    storage = new_storage()
    for folder in FOLDERS:
        storage.make_folder(folder)
    return storage


@pytest.fixture
def other(storage, new_storage):
    """The same files, as another process sees them."""
    return new_storage()


def content_of(name):
    return [name.encode(), b"", memoryview(b"\0\xff" * 1000)]


@pytest.fixture
def filled(storage):
    storage.replace({name: content_of(name) for name in NAMES})
    return storage


@pytest.mark.parametrize("write", ["replace", "overwrite"])
def test_written_files_are_read(storage, other, write):
    for _ in range(2):
        getattr(storage, write)({name: content_of(name) for name in NAMES})
        for name in NAMES:
            assert other.read(name) == b"".join(content_of(name))
    getattr(storage, write)({NAMES[0]: []})
    assert other.read(NAMES[0]) == b""
    assert sorted(other.names()) == sorted(NAMES)


def test_no_files_are_written(storage):
    storage.replace({})
    storage.overwrite({})
    storage.delete([])
    assert [name for name in storage.names() if not name.endswith("/")] == []


def test_missing_files_are_not_found(filled, other):
    for name in ["c.0", "a/c.0", "none/zarr.json"]:
        for read in (other.read, other.read_json):
            with pytest.raises(FileNotFoundError):
                read(name)


def test_json_is_read(storage, other):
    value = {"ä": [1, None, 2.5], "b": {"c": True}}
    storage.replace({"a/zarr.json": [json.dumps(value).encode()]})
    assert other.read_json("a/zarr.json") == value


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"1", b'{"a": NaN}', b"\xff", b"[" * 100_000, b'{"a": 1}{}'],
)
def test_damaged_json_is_named(storage, other, content):
    storage.replace({"a/zarr.json": [content]})
    with pytest.raises(StoreCorruptError, match="is damaged: it") as caught:
        other.read_json("a/zarr.json")
    assert str(caught.value).startswith(f"{storage}/a/zarr.json ")


def test_the_files_of_a_folder_are_listed(filled, other):
    assert sorted(other.names("a")) == ["b/zarr.json", "c.0.0"]
    assert sorted(other.names("a/b")) == ["zarr.json"]
    assert list(other.names("none")) == []
    assert list(other.names("zarr")) == []


def test_many_files_are_listed_and_deleted(storage, other):
    names = [f"ab/{number:04}" for number in range(LISTED_AT_ONCE + 10)]
    storage.overwrite({name: [b"x"] for name in names})
    assert sorted(other.names("ab")) == [name.removeprefix("ab/") for name in names]
    other.delete(name for name in names[1:])
    assert list(storage.names("ab")) == ["0000"]


def test_the_size_is_that_of_the_files_or_unknown(filled, other):
    files, size = other.size("a/b")
    assert files == 1
    assert size in (None, len(b"".join(content_of("a/b/zarr.json"))))


def test_a_file_is_created_once(storage, other):
    assert storage.create("ab/x", b"first")
    assert not other.create("ab/x", b"second")
    assert not storage.create("ab/x", b"third")
    assert other.read("ab/x") == b"first"
    storage.delete(["ab/x"])
    assert other.create("ab/x", b"fourth")
    assert list(storage.names("ab")) == ["x"]


def test_one_of_many_creates_a_file(storage, new_storage):
    storages = [new_storage() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        numbers = range(len(storages))
        made = list(
            pool.map(lambda n: storages[n].create("a/x", str(n).encode()), numbers)
        )
    assert made.count(True) == 1
    assert storage.read("a/x") == str(made.index(True)).encode()


def test_objects_of_another_writer_are_not_replaced(object_store):
    """In a folder, the lock keeps the other writer out."""
    first, second = map(ObjectStorage.parse, [Bucket.new(object_store).path] * 2)
    first.replace({"zarr.json": [b"1"]})
    with pytest.raises(TakenError, match=r"/zarr\.json is not as this process left"):
        second.replace({"zarr.json": [b"2"]})
    second.read("zarr.json")
    second.replace({"zarr.json": [b"3"]})
    for change in (
        lambda: first.replace({"zarr.json": [b"4"]}),
        lambda: first.delete(["zarr.json"], if_unchanged=True),
    ):
        other = first.read("zarr.json")
        second.replace({"zarr.json": [other + b"5"]})
        with pytest.raises(TakenError):
            change()
    assert first.read("zarr.json") == b"355"
    first.delete(["zarr.json"], if_unchanged=True)
    assert not second.exists("zarr.json")


def test_a_lock_is_released_once(storage, other):
    lock = storage.lock(None)
    with pytest.raises(StoreError, match=f"{storage} is being written already, by"):
        other.lock(None)
    lock.release()
    later = other.lock(None)
    lock.release()
    with pytest.raises(StoreError, match="is being written already, by"):
        storage.lock(None)
    later.release()
    storage.lock({**this_process(), "process": 2**22 + 1}).release()


def test_remembered_files_are_replaced(filled, other):
    other.remember(name for name in NAMES)
    other.replace({name: [b"new"] for name in NAMES})
    assert [other.read(name) for name in NAMES] == [b"new"] * len(NAMES)


def test_others_files_are_overwritten(filled, other):
    other.overwrite({name: [b"new"] for name in NAMES})
    filled.overwrite({NAMES[0]: [b"newer"]})
    assert other.read(NAMES[0]) == b"newer"


def test_deleted_files_are_gone_and_missing_ones_skipped(filled, other):
    other.delete(["a/c.0.0", "a/none", "none/zarr.json"])
    filled.delete(["a/c.0.0"])
    assert sorted(filled.names()) == sorted({*NAMES} - {"a/c.0.0"})


def test_a_deleted_folder_is_gone_with_its_folders_only(filled, other):
    other.delete_folder("a")
    other.delete_folder("a")
    other.delete_folder("none")
    left = [name for name in NAMES if not name.startswith("a/")]
    assert sorted(filled.names()) == sorted(left)


def test_a_folder_is_made_twice(storage):
    storage.make_folder("a")
    storage.replace({"a/x": [b"x"]})
    storage.make_folder("a")
    assert storage.read("a/x") == b"x"


def test_readers_see_old_or_new_files(storage, new_storage):
    contents = [bytes([number]) * 100_000 for number in (1, 2)]
    storage.replace({"a/x": [contents[0]]})
    done, reader, seen = threading.Event(), new_storage(), set()

    def read():
        while not done.is_set():
            seen.add(reader.read("a/x"))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(20):
        storage.replace({"a/x": [contents[number % 2]]})
    done.set()
    thread.join()
    assert seen <= {*contents}


def test_an_error_in_a_content_leaves_the_old_file(filled, other):
    def content():
        yield b"new"
        raise ZeroDivisionError

    for write in (filled.replace, filled.overwrite):
        with pytest.raises(ZeroDivisionError):
            write({"a/c.0.0": content()})
    assert other.read("a/c.0.0") == b"".join(content_of("a/c.0.0"))
    assert sorted(other.names()) == sorted(NAMES)


def test_paths_name_the_store_and_its_files(storage, new_storage):
    assert str(storage) == os.fspath(storage) == str(new_storage())
    assert storage.path_of("a/zarr.json") == f"{storage}/a/zarr.json"


def test_another_process_gets_a_storage(filled):
    copy = pickle.loads(pickle.dumps(filled))
    assert (str(copy), copy.read("zarr.json")) == (
        str(filled),
        filled.read("zarr.json"),
    )
