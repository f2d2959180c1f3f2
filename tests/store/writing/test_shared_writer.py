"""A store whose blocks many write, in any order: which blocks count, and which not."""

import json
import shutil
import threading

import numpy as np
import pytest
import zarr

from layertap.errors import StoreCorruptError, StoreError
from layertap.store.location import exists, remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer
from tests.support.shared_store import (
    BLOCK,
    LAST,
    MEMORY,
    NOTED,
    ROWS,
    begin,
    contents_at_once,
    record,
    write,
)
from tests.support.store_folder import Folder
from tests.support.store_rows import (
    ARRAYS,
    assert_holds,
    complaints,
    contents_of,
    rows_between,
)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_any_order_gives_the_store_of_one_writer(tmp_path, order, compression):
    path = tmp_path / "v"
    with begin(path, compression=compression) as writer:
        for done, number in enumerate(order):
            assert writer.missing() == sorted(order[done:])
            write(writer.claim, number)
        assert list(writer.notes()) == [(n * BLOCK, {"of": n}) for n in range(5)]
        writer.finish(lambda: NOTED)
    assert_holds(Folder(path), ROWS)
    assert contents_of(Folder(path)) == contents_at_once(
        tmp_path, compression=compression
    )


def test_rows_count_when_all_are_there_and_foreign_readers_see_none_before(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 0, 3, 4)
        # Warnings are errors here.
        assert_holds(Folder(path), 0)
        members = dict(zarr.open_group(path, mode="r").members(max_depth=None))
        arrays = {name for name, one in members.items() if isinstance(one, zarr.Array)}
        assert arrays == {array.path for array in ARRAYS} | {"~blocks"}
        assert members["~blocks"].shape == (0,)
        with pytest.raises(StoreError, match=r"not complete: blocks \[1, 2\] of 5"):
            writer.finish()
        assert not Reader(path).complete
        seen = writer.array("labels")[3 * BLOCK :]
        assert np.array_equal(seen, rows_between(3 * BLOCK, ROWS)["labels"])


def test_closed_early_rows_count_up_to_the_first_missing_block(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 4, 1, 0, 3)
    assert_holds(Folder(path), 2 * BLOCK)
    assert complaints(path) == {}
    with SharedWriter.resume(path, rows=ROWS) as writer:
        assert writer.missing() == [2]
        write(writer.claim, 2)
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def test_one_writer_goes_on_after_the_rows_that_follow(tmp_path):
    path = tmp_path / "v"
    writer = begin(path)
    write(writer.claim, 0, 1, 3)
    # As if it were killed: nothing is said in the markers.
    writer._location.release()
    assert_holds(Folder(path), 0)
    with Writer.resume(path, memory=MEMORY) as one:
        assert one.rows == 2 * BLOCK
        one.append(rows_between(2 * BLOCK, ROWS))
        one.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


@pytest.mark.parametrize("rows", [0, 3, 20, 26, 47])
def test_many_go_on_after_one_writer(tmp_path, rows):
    path = tmp_path / "v"
    with Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY) as one:
        one.append(rows_between(0, rows))
        one.commit()
    with SharedWriter.resume(path, rows=ROWS) as writer:
        whole = 5 if rows == ROWS else rows // BLOCK
        assert writer.missing() == list(range(whole, 5))
        write(writer.claim, *writer.missing())
        noted = [None if n < whole else {"of": n} for n in range(5)]
        assert [each for _, each in writer.notes()] == noted
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def at_the_same_time(*actions):
    """Does things in threads that begin together; returns the errors."""
    errors, gate = [], threading.Barrier(len(actions))

    def run(action):
        gate.wait()
        try:
            action()
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_a_block_that_is_written_twice_at_the_same_time(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        for number in range(5):
            both = [lambda n=number: write(writer.claim, n)] * 4
            assert at_the_same_time(*both) == []
        assert writer.missing() == []
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def test_other_values_of_one_block_are_an_error_and_it_is_left_out(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 0, 1, 2, 3, 4)
        with pytest.raises(
            StoreError, match=r"different values for block 1\. It was not"
        ):
            write(writer.claim, 1, change=1)
        assert writer.missing() == [1]
        write(writer.claim, 1)
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def test_other_values_at_the_same_time_never_count(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        for number in range(5):
            errors = at_the_same_time(
                lambda n=number: write(writer.claim, n),
                lambda n=number: write(writer.claim, n, change=1),
            )
            assert len(errors) in (1, 2)
            assert writer.missing() == list(range(number, 5))
            write(writer.claim, number)
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def damaged(path):
    content = json.loads(record(path, 1).read_text())
    content["digests"]["labels"] = "0" * 16
    record(path, 1).write_text(json.dumps(content))


def cut_off(path):
    record(path, 1).write_bytes(record(path, 1).read_bytes()[:50])


def of_another_block(path):
    record(path, 1).write_bytes(record(path, 0).read_bytes())


def of_another_store(path):
    other = path.with_name("other")
    with begin(other) as writer:
        write(writer.claim, 1)
        shutil.copy(record(other, 1), record(path, 1))


@pytest.mark.parametrize("harm", [damaged, cut_off, of_another_block, of_another_store])
def test_a_wrong_record_is_reported_and_its_block_written_again(tmp_path, harm):
    path = tmp_path / "v"
    writer = begin(path)
    write(writer.claim, 0, 1, 2, 3, 4)
    harm(path)
    with pytest.raises(StoreCorruptError, match=r"~blocks/1\.10 is damaged"):
        writer.finish()
    writer.close()
    assert_holds(Folder(path), 0)
    with pytest.raises(StoreCorruptError, match="Delete it, and do the same again"):
        Writer.resume(path, memory=MEMORY)
    record(path, 1).unlink()
    with SharedWriter.resume(path, rows=ROWS) as writer:
        assert writer.missing() == [1]
        write(writer.claim, 1)
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def ended(writer):
    writer.close()


def finished(writer):
    write(writer.claim, 1, 2, 3, 4)
    writer.finish()


def gone_on_with(writer):
    writer._location.release()
    SharedWriter.resume(writer.path, rows=ROWS)._location.release()


def gone_on_with_by_one(writer):
    writer._location.release()
    Writer.resume(writer.path, memory=MEMORY)._location.release()


def replaced(writer):
    writer.close()
    remove(writer.path)
    begin(writer.path).close()


@pytest.mark.parametrize(
    "end", [ended, finished, gone_on_with, gone_on_with_by_one, replaced]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_worker_of_an_ended_save_writes_nothing(tmp_path, monkeypatch, end, late):
    path = tmp_path / "v"
    writer = begin(path)
    claim = writer.claim
    write(claim, 0)
    worker = BlockWorker(claim)
    block = worker.begin(1)
    block.append(rows_between(BLOCK, 2 * BLOCK))
    if late:
        # It ends while the shards are on their way.
        overwrite = worker._storage.overwrite
        monkeypatch.setattr(
            worker._storage,
            "overwrite",
            lambda contents: (overwrite(contents), end(writer)),
        )
    else:
        end(writer)
    with pytest.raises(StoreError, match="has ended, or another one has the store"):
        worker.write(block)
    if not late:
        with pytest.raises(StoreError, match="has ended, or another one"):
            BlockWorker(claim)
    # With its record, the block would count.
    names = {file.name for file in (path / "~blocks").glob("*.*[0-9]")}
    assert f"1.{BLOCK}" not in names
    assert complaints(path) == {}


def test_one_has_it_at_a_time(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        for other in (
            lambda: SharedWriter.resume(path, rows=ROWS),
            lambda: Writer.resume(path, memory=MEMORY),
            lambda: begin(path),
            lambda: remove(path),
        ):
            with pytest.raises(StoreError, match="is being written already, by"):
                other()
        write(writer.claim, 0)
    with pytest.raises(StoreError, match=r"There is a store at .* already"):
        begin(path)


def test_a_store_with_records_is_removed_but_not_with_anything_else(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 0, 4)
    # Leftovers of killed workers.
    record(path, 2).with_name("2.10.0123abcd.new").touch()
    record(path, 2).with_name("2.10.0123abcd.new.new").touch()
    (path / "labels" / "c.3.0123abcd.new").touch()
    foreign = path / "~blocks" / "notes.txt"
    foreign.touch()
    with pytest.raises(StoreError, match="does not belong to it"):
        remove(path)
    foreign.unlink()
    remove(path)
    assert not exists(path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_workers_are_deleted(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 0, 1, 2, 3, 4)
        record(path, 2).with_name("2.10.0123abcd.new").touch()
        (path / "labels" / "c.3.0123abcd.new").touch()
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path)


def test_a_block_has_all_its_rows_or_is_told(tmp_path):
    with begin(tmp_path / "v") as writer:
        worker = BlockWorker(writer.claim)
        assert [worker.rows_of(n) for n in (0, LAST)] == [
            range(10),
            range(40, 47),
        ]
        assert not worker.written(0)
        write(writer.claim, 0, LAST)
        assert worker.written(0)
        assert worker.written(LAST)
