"""What any storage must do that a store is put in: the suite, and what its tests need.

A module of tests derives its classes from `StoreSuite`, and from `DamageSuite` and
`FlipSuite` beside this file, and has a fixture `new_place`, of its module: a function
that returns a `Place` where nothing is stored yet.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.errors import OptionError, StoreError
from layertap.store.format import root
from layertap.store.format.layout import ArraySpec
from layertap.store.location import locate, remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.store_rows import (
    ARRAYS,
    DTYPES,
    ROW_BYTES,
    assert_holds,
    complaints,
    contents_of,
    reopening_of,
    rows_between,
    values_of,
    write,
)

RESUME_ELSEWHERE = """
import sys
from layertap.errors import StoreError
from layertap.store.writing.writer import Writer
try:
    Writer.resume(sys.argv[1])
except StoreError as error:
    print(error)
"""

words = st.sampled_from(["commit", "resume", "grow"])
steps = st.lists(st.integers(0, 40) | words, min_size=1, max_size=12)
# Steps, rows of a block, compression.
histories = st.tuples(steps, st.integers(1, 30), st.sampled_from([None, "zstd"]))


class StoreSuite:
    """What a store does on any storage, while nothing is damaged."""

    @pytest.fixture
    def place(self, new_place):
        return new_place()

    @pytest.fixture
    def path(self, place):
        return place.path

    @pytest.mark.parametrize("compression", [None, "zstd"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_values_come_back_bit_for_bit(self, path, dtype, compression):
        values = {f"a/{n}": values_of((23, *((2, 3)[:n])), dtype) for n in range(3)}
        write(path, values, compression=compression)
        reader = Reader(path)
        assert reader.paths == list(values)
        for name, expected in values.items():
            found = reader.array(name)[:]
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert found.tobytes() == expected.tobytes()
        assert not complaints(path)
        reader.check_groups()

    @pytest.mark.parametrize("compression", [None, "zstd"])
    @pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "bfloat16"])
    def test_zarr_python_reads_the_same(self, place, path, dtype, compression):
        values = {"my%20dense/in/0": values_of((23, 2, 3), dtype)}
        values["labels"] = values_of((23,), dtype)
        write(path, values, compression=compression)
        with place.local() as folder:
            group = zarr.open_group(folder, mode="r")
            for name, expected in values.items():
                assert group[name].dtype == expected.dtype
                assert group[name][:].tobytes() == expected.tobytes()
            members = {name for name, _ in group.members(max_depth=None)}
        assert members == {"my%20dense", "my%20dense/in", "my%20dense/in/0", "labels"}

    def test_zeros_are_stored(self, path):
        write(path, {"a": np.zeros([100, 8], "float32")})
        array = Reader(path).array("a")
        assert array[:].tobytes() == bytes(100 * 8 * 4)
        assert not complaints(path)

    def test_a_store_without_rows(self, place, path):
        arrays = [ArraySpec("a", (2,), "float32"), ArraySpec("b", (), "bool")]
        Writer.create(path, arrays, {"x": [1, {"y": None}]}).close()
        reader = Reader(path)
        assert (reader.rows, reader.complete) == (0, False)
        assert reader.attributes == {"x": [1, {"y": None}]}
        assert reader.array("a")[:].shape == (0, 2)
        assert list(reader.array("a").check()) == []
        assert np.asarray(reader.array("b")).dtype == bool
        with place.local() as folder:
            assert zarr.open_group(folder, mode="r")["a"][:].shape == (0, 2)

    def test_check_says_which_rows_it_has_read(self, path):
        with Writer.create(path, ARRAYS, {}, memory=3 * 4 * ROW_BYTES) as writer:
            writer.append(rows_between(0, 11))
            writer.commit()
        for name in rows_between(0, 0):
            checked = list(Reader(path).array(name).check())
            assert checked == [
                (range(0, 4), None),
                (range(4, 8), None),
                (range(8, 11), None),
            ]

    @pytest.mark.campaign
    @settings(max_examples=times(6, 25))
    @given(history=histories)
    def test_any_history_ends_in_the_same_store(self, new_place, history):
        self.check_history(new_place, *history)

    def check_history(self, new_place, steps, block, compression):
        place, other = new_place(), new_place()
        path = place.path
        options = {"compression": compression, "memory": 3 * block * ROW_BYTES}
        writer = Writer.create(path, ARRAYS, {"x": 1}, **options)
        committed = 0
        for step in steps:
            if step == "commit" or (step == "grow" and not committed):
                writer.commit()
                committed = writer.rows
                assert writer.committed == committed
            elif step == "grow":
                writer.finish(lambda: {"y": 1})
                committed = writer.rows
                writer.close()
                assert_holds(place, committed)
                again = {"memory": options["memory"], "reopening": reopening_of(path)}
                writer = Writer.resume(path, **again)
                assert not Reader(path).complete
                assert writer.rows == writer.committed == committed
                assert_holds(place, committed)
            elif step == "resume":
                # Without a commit, whole blocks are kept.
                committed = max(committed, writer.rows - writer.rows % block)
                writer.close()
                assert_holds(place, committed)
                writer = Writer.resume(place.path, memory=options["memory"])
                assert writer.rows == writer.committed == committed
            else:
                before = writer.rows
                writer.append(rows_between(before, before + step))
                assert writer.rows == before + step
        writer.finish(lambda: {"y": 2})
        rows = writer.rows
        writer.close()
        assert_holds(place, rows)
        assert not complaints(place.path)
        assert Reader(place.path).block_rows == block

        with Writer.create(other.path, ARRAYS, {"x": 1}, **options) as once:
            once.append(rows_between(0, rows))
            once.finish(lambda: {"y": 2})
        assert contents_of(place) == contents_of(other)

    def test_no_two_stores_have_one_id(self, new_place):
        places = [new_place(), new_place()]
        for place in places:
            write(place.path, {"a": np.ones(3)})
        roots = [json.loads(place.read("zarr.json")) for place in places]
        ids = {root["attributes"]["layertap"]["store"] for root in roots}
        assert len(ids) == 2

    def test_rows_are_seen_when_they_are_committed(self, place, path):
        writer = Writer.create(path, ARRAYS, {}, memory=3 * 10 * ROW_BYTES)
        writer.append(rows_between(0, 7))
        assert (writer.rows, writer.committed, writer.bytes_written) == (7, 0, 0)
        assert_holds(place, 0)
        writer.commit()
        assert (writer.rows, writer.committed) == (7, 7)
        assert_holds(place, 7)
        writer.append(rows_between(7, 9))
        assert_holds(place, 7)
        writer.close()
        assert_holds(place, 7)

    def test_bytes_written(self, new_place):
        place = new_place()
        with Writer.create(place.path, ARRAYS, {}, memory=30 * ROW_BYTES) as writer:
            writer.append(rows_between(0, 35))
            writer.finish()
        shards = [place.read(name) for name in place.names() if "/c." in name]
        assert len(shards) == 3 * 4
        assert writer.bytes_written == sum(map(len, shards))

    def test_finish(self, place, path):
        with Writer.create(path, ARRAYS, {"a": 1, "b": 2}) as writer:
            writer.append(rows_between(0, 3))
            assert not Reader(path).complete
            writer.finish(lambda: {"b": 3, "c": 4})
            assert Reader(path).complete
            assert Reader(path).attributes == {"a": 1, "b": 3, "c": 4}
            with pytest.raises(StoreError, match=r"is finished\. No rows can be added"):
                writer.append(rows_between(3, 4))
        assert_holds(place, 3)
        with pytest.raises(StoreError, match="is complete: no rows can be added"):
            Writer.resume(path)

    def test_a_complete_store_gets_more_rows(self, place, path):
        with Writer.create(path, ARRAYS, {"x": 1}, memory=30 * ROW_BYTES) as writer:
            writer.append(rows_between(0, 23))
            writer.finish(lambda: {"of all rows": 23})
        before = Reader(path)
        with Writer.resume(path, reopening=reopening_of(path)) as writer:
            opened = Reader(path)
            assert (opened.rows, opened.complete) == (23, False)
            assert opened.attributes == {"x": 1}
            writer.append(rows_between(23, 27))
            writer.commit()
            assert_holds(place, 27)
            assert not complaints(path)
            writer.append(rows_between(27, 55))
            writer.finish(lambda: {"of all rows": 55})
        assert_holds(place, 55)
        assert not complaints(path)
        assert (Reader(path).complete, Reader(path).block_rows) == (True, 10)
        assert Reader(path).attributes == {"x": 1, "of all rows": 55}
        # Whoever had the rows of before still reads them.
        for name, expected in rows_between(0, 23).items():
            assert np.array_equal(before.array(name)[:], expected)

    def test_a_store_that_was_changed_since_is_not_reopened(self, place, path):
        write(path, rows_between(0, 5))
        content = contents_of(place)
        known = reopening_of(path)
        for other in (replace(known, rows=4), replace(known, store="0" * 32)):
            with pytest.raises(StoreError, match="was changed by another process"):
                Writer.resume(path, reopening=other)
        assert contents_of(place) == content

    def test_a_reader_that_comes_while_a_store_is_reopened(
        self, place, path, monkeypatch
    ):
        write(path, rows_between(0, 5))
        earlier = root.read_root(locate(path).storage)
        with Writer.resume(path, reopening=reopening_of(path)) as writer:
            writer.append(rows_between(5, 9))
            writer.finish()
        roots = iter([earlier])
        monkeypatch.setattr(
            "layertap.store.format.metadata.read_root",
            lambda storage: next(roots, None) or root.read_root(storage),
        )
        assert_holds(place, 9)

    def test_one_writer_at_a_time(self, place, path):
        me = f"by process {os.getpid()} on {socket.gethostname()}, since 20"
        with Writer.create(path, ARRAYS, {}) as writer:
            writer.append(rows_between(0, 2))
            for action in (Writer.resume, remove):
                with pytest.raises(StoreError, match=f"is being written already, {me}"):
                    action(path)
            writer.commit()
        with pytest.raises(StoreError, match="is closed"):
            writer.commit()
        assert_holds(place, 2)
        with Writer.resume(path) as writer:
            assert writer.rows == 2
            with pytest.raises(StoreError, match=f"is being written already, {me}"):
                Writer.resume(path)
            writer.append(rows_between(2, 5))
            writer.finish()
        assert_holds(place, 5)

    def test_another_process_is_told_who_writes(self, place, path):
        command = [sys.executable, "-c", RESUME_ELSEWHERE, str(path)]
        with Writer.create(path, ARRAYS, {}) as writer:
            writer.append(rows_between(0, 2))
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            writer.finish()
        me = f"by process {os.getpid()} on {socket.gethostname()}, since 20"
        assert f"is being written already, {me}" in done.stdout
        assert_holds(place, 2)

    def test_nothing_is_said_of_a_writer_that_has_ended(self, new_place):
        place = new_place()

        def writers():
            root = json.loads(place.read("zarr.json"))
            return root["attributes"]["layertap"]["writer"]

        with Writer.create(place.path, ARRAYS, {}):
            assert writers()["process"] == os.getpid()
        assert writers() is None
        with Writer.resume(place.path) as writer:
            assert writers()["process"] == os.getpid()
            writer.finish()
            assert writers() is None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"labels": np.zeros(3, "int64")}, "same number of rows"),
            ({"labels": np.zeros(2, "int32")}, r"of labels .* int64\. .* int32"),
            ({"labels": np.zeros(2, ">i8")}, "The rows of labels do not fit"),
            ({"labels": np.zeros((2, 1), "int64")}, r"shape \(\) .* shape \(2, 1\)"),
            ({"labels": np.int64(0)}, r"Received an array of shape \(\)"),
            ({"join/in/1": np.zeros((2, 3, 2), "int8")}, r"shape \(2, 3\) and .* int8"),
            ({"other": np.zeros(2)}, r"Missing: \[\]\. Unknown: \['other'\]"),
        ],
    )
    def test_rows_that_do_not_fit_are_refused_whole(self, place, path, change, message):
        with Writer.create(path, ARRAYS, {}) as writer:
            writer.append(rows_between(0, 3))
            with pytest.raises(OptionError, match=message):
                writer.append(rows_between(3, 5) | change)
            fewer = rows_between(3, 5)
            del fewer["labels"]
            with pytest.raises(OptionError, match=r"Missing: \['labels'\]\. Unknown: "):
                writer.append(fewer)
            writer.append(rows_between(3, 6))
            writer.finish()
        assert_holds(place, 6)

    def test_a_reader_keeps_its_rows_while_the_writer_goes_on(self, path):
        rows = np.arange(40, dtype="float32").reshape(20, 2)
        arrays = [ArraySpec("a", (2,), "float32")]
        with Writer.create(path, arrays, {}, memory=3 * 8 * 8) as writer:
            readers = []
            for row in range(20):
                writer.append({"a": rows[row : row + 1]})
                writer.commit()
                readers.append(Reader(path))
                for count, reader in enumerate(readers, 1):
                    assert reader.rows == count
                    assert np.array_equal(reader.array("a")[:], rows[:count])

    def test_readers_at_any_time_see_whole_rows(self, path):
        rows = np.arange(600, dtype="int64")
        arrays = [ArraySpec(name, (), "int64") for name in ("a", "b")]
        writer = Writer.create(path, arrays, {}, memory=3 * 16 * 16)

        def write_all():
            with writer:
                for start in range(0, 600, 3):
                    part = rows[start : start + 3]
                    writer.append({"a": part, "b": -part})
                    if start % 5 == 0:
                        writer.commit()
                writer.finish()

        thread = threading.Thread(target=write_all)
        thread.start()
        seen = [0]
        while not (reader := Reader(path)).complete:
            seen.append(reader.rows)
            assert np.array_equal(reader.array("a")[:], rows[: reader.rows])
            assert np.array_equal(reader.array("b")[:], -rows[: reader.rows])
            assert thread.is_alive() or Reader(path).complete
        thread.join()
        assert seen == sorted(seen)
        assert reader.rows == 600
