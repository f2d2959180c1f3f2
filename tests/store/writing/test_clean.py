"""Cleaning a store: what a stopped save left goes, and committed rows stay."""

import os

import pytest

from layertap.errors import NotAStoreError, StoreError
from layertap.store.writing.clean import clean
from layertap.store.writing.writer import Writer
from tests.support.shared_store import MEMORY, ROWS, begin, write
from tests.support.store_bucket import Bucket
from tests.support.store_folder import Folder
from tests.support.store_rows import ARRAYS, assert_holds, rows_between


def abandoned(path, *blocks):
    """Makes a store whose driver was killed after workers had written some blocks."""
    writer = begin(path)
    write(writer.claim, *blocks)
    # As if it were killed.
    writer._location.release()


def size_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_blocks_that_no_committed_row_needs_are_removed(tmp_path):
    path = tmp_path / "v"
    abandoned(path, 0, 1, 3)
    (path / "labels" / "c.4.0a1b2c3d.new").write_bytes(b"half of a shard")
    shards = [path / spec.path / f"c.3{'.0' * len(spec.shape)}" for spec in ARRAYS]
    records = [path / "~blocks" / f"{number}.10" for number in (0, 1, 3)]
    left = [
        *(path / "labels" / "c.4.0a1b2c3d.new", path / "~blocks" / "zarr.json"),
        *(*shards, *records),
    ]
    expected = len(left), sum(file.stat().st_size for file in left)
    assert clean(path) == expected
    assert not any(file.exists() for file in left)
    assert_holds(Folder(path), 20)
    assert clean(path) == (0, 0)
    with Writer.resume(path, memory=MEMORY) as writer:
        writer.append(rows_between(20, ROWS))
        writer.finish()
    before = {name: Folder(path).read(name) for name in Folder(path).names()}
    assert clean(path) == (0, 0)
    assert {name: Folder(path).read(name) for name in Folder(path).names()} == before


def test_half_deleted_stores_next_to_it_are_removed(tmp_path):
    path, half = tmp_path / "v", tmp_path / ".v.0a1b2c3d.removing"
    other = tmp_path / ".w.0a1b2c3d.removing"
    abandoned(path, 0)
    path.rename(half)
    abandoned(other, 0)
    size = size_of(half)
    files, removed = clean(path)
    assert (files > 0, removed) == (True, size)
    assert other.exists()
    assert not half.exists()
    with pytest.raises(NotAStoreError, match="there is nothing there"):
        clean(path)


def test_a_store_that_is_being_written_stays(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 3)
        size = size_of(path)
        with pytest.raises(StoreError, match=f"by process {os.getpid()}"):
            clean(path)
        assert size_of(path) == size


def test_a_bucket_has_no_known_bytes(object_store):
    place = Bucket.new(object_store)
    with begin(place.path) as made:
        write(made.claim, 0, 3)
    files, size = clean(place.path)
    assert (files, size) == (3 + 3, None)
    assert_holds(place, 10)
