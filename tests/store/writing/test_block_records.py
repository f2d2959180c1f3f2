"""Very many records: read side by side and once, and cached small."""

import threading
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from layertap.errors import StoreError
from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.storage import objects
from layertap.store.storage.files import LocalStorage
from layertap.store.writing.block_records import Record, record_file
from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter

ARRAYS = [ArraySpec("a/x", (3,), "float32"), ArraySpec("y", (), "int64")]
BLOCK, ROWS = 2, 99


def written(path, rows=ROWS):
    """A writer of a store whose blocks were all written by somebody else."""
    writer = SharedWriter.create(path, ARRAYS, {}, rows=rows, most_rows=BLOCK)
    other = BlockWorker(writer.claim)
    for number in writer.missing():
        block = other.begin(number)
        part = np.array(other.rows_of(number))
        block.append({"a/x": np.repeat(part[:, None], 3, 1).astype("f4"), "y": part})
        other.write(block, {"of": number})
    return writer


def assert_whole(path, rows=ROWS):
    reader = Reader(path)
    assert (reader.rows, reader.complete) == (rows, True)
    assert np.array_equal(reader.array("y")[:], np.arange(rows))
    for name in reader.paths:
        assert [problem for _, problem in reader.array(name).check() if problem] == []


@pytest.fixture
def read(monkeypatch):
    """How often each file was read, and how many at a time; each takes a while."""
    seen, at_once, lock = Counter(), [0], threading.Lock()
    before, now = LocalStorage.read, [0]

    def slowly(storage, name):
        folder, _, record = name.rpartition("/")
        if folder != "~blocks":
            return before(storage, name)
        with lock:
            seen[record] += 1
            now[0] += 1
            at_once[0] = max(at_once[0], now[0])
        # The first ones are the last to be answered.
        time.sleep(0.02 if int(record.split(".")[0]) % 4 == 0 else 0.005)
        with lock:
            now[0] -= 1
        return before(storage, name)

    monkeypatch.setattr(LocalStorage, "read", slowly)
    return seen, at_once


def test_records_are_read_side_by_side_and_yielded_in_order(tmp_path, read):
    seen, at_once = read
    with written(tmp_path / "v") as writer:
        seen.clear()
        output = list(writer.notes())
        assert output == [(n * BLOCK, {"of": n}) for n in range(50)]
    assert 8 <= at_once[0] <= 16


def test_the_end_of_a_save_reads_each_record_once(tmp_path, read):
    seen, _ = read
    with written(tmp_path / "v") as writer:
        seen.clear()
        writer.finish(lambda: {"noted": [noted["of"] for _, noted in writer.notes()]})
    assert seen == {f"{n}.{min(BLOCK, ROWS - n * BLOCK)}": 1 for n in range(50)}
    assert_whole(tmp_path / "v")
    assert Reader(tmp_path / "v").attributes["noted"] == list(range(50))


def test_a_save_without_notes_reads_each_record_once_too(tmp_path, read):
    seen, at_once = read
    with written(tmp_path / "v") as writer:
        seen.clear()
        writer.finish()
    assert set(seen.values()) == {1}
    assert at_once[0] >= 8
    assert_whole(tmp_path / "v")


def test_a_record_that_is_lost_while_a_save_ends_is_reported(tmp_path):
    path = tmp_path / "v"
    with written(path) as writer:

        def noted():
            found = {"noted": len(list(writer.notes()))}
            (path / record_file(30, BLOCK)).unlink()
            return found

        with pytest.raises(StoreError, match=r"a record is gone.*do the same again"):
            writer.finish(noted)
        assert not Reader(path).complete
        assert writer.missing() == [30]
    # The rows before it count.
    assert Reader(path).rows == 30 * BLOCK


def test_a_cached_record_needs_little_more_memory_than_its_digests(tmp_path):
    arrays = [ArraySpec(f"branch/{n}", (), "int8") for n in range(53)]
    path, blocks, peaks = tmp_path / "v", 400, []
    with SharedWriter.create(path, arrays, {}, rows=blocks, most_rows=1) as writer:
        for number in range(blocks):
            digests = {spec.path: f"{number:016x}" for spec in arrays}
            record = Record(writer.store, number, 1, digests, {"mean": "0" * 1000})
            (path / record_file(number, 1)).write_bytes(record.contents())
        # The least of three: threads of other tests need memory, too.
        for _ in range(3):
            writer._records._cached.clear()
            tracemalloc.start()
            even = writer._records.extend(writer._layouts)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    digests = "".join(f"{number:016x}" for number in range(blocks))
    assert {(one.rows, one.digests) for one in even} == {(blocks, digests)}
    # Those of each block and of each array; and sixteen records that are read.
    assert min(peaks) < 3 * len(arrays) * len(digests) + 16 * 20_000


def test_any_number_of_objects_is_deleted(monkeypatch):
    bucket = objects.buckets.tensorstore().KvStore.open("memory://").result()
    monkeypatch.setattr(objects.buckets, "open_bucket", lambda *_: bucket)
    monkeypatch.setattr(objects, "_DELETES_BEGUN", 7)
    storage = objects.ObjectStorage.parse("s3://bucket/v")
    names = [f"{n:02}" for n in range(30)]
    storage.replace({name: [b"x"] for name in names})
    storage.delete(names[:-1])
    assert list(storage.names()) == names[-1:]
    assert set(storage._seen) == {"29"}
