"""Writing a store: any batches, commits and resumes give the same store."""

import shutil
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.errors import (
    NotAStoreError,
    OptionError,
    StoreCorruptError,
    StoreError,
)
from layertap.store import ArraySpec, Reader, Writer, exists, remove

ARRAYS = [
    ArraySpec("join/in/0", (5,), "float32", {"made_by": "left"}),
    ArraySpec("join/in/1", (2, 3), "int8"),
    ArraySpec("labels", (), "int64"),
]
ROW_BYTES = 20 + 6 + 8


def rows_between(start, stop):
    """The rows from one number up to another, of all arrays."""
    rows = np.arange(start, stop)
    cells = rows[:, None, None] + np.arange(6).reshape(2, 3)
    return {
        "join/in/0": np.sin(rows[:, None] * 5.0 + np.arange(5)).astype("float32"),
        "join/in/1": (cells % 11).astype("int8"),
        "labels": rows % 7,
    }


def assert_holds(path, rows):
    """Asserts that a store shows the first rows, here and in zarr-python."""
    reader = Reader(path)
    group = zarr.open_group(path, mode="r")
    assert reader.rows == rows
    for name, expected in rows_between(0, rows).items():
        assert np.array_equal(reader.array(name)[:], expected)
        assert np.array_equal(group[name][:], expected)


def files_of(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in Path(path).rglob("*")
        if file.is_file()
    }


steps = st.lists(
    st.integers(0, 40) | st.sampled_from(["commit", "resume"]), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=25)
@given(
    steps=steps, block=st.integers(1, 30), compression=st.sampled_from([None, "zstd"])
)
def test_any_history_ends_in_the_same_store(steps, block, compression):
    options = {"compression": compression, "memory": 3 * block * ROW_BYTES}
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer.create(f"{folder}/v", ARRAYS, {"x": 1}, **options)
        committed = 0
        for step in steps:
            if step == "commit":
                writer.commit()
                committed = writer.rows
                assert writer.committed == committed
            elif step == "resume":
                # Without a commit, whole blocks are kept.
                committed = max(committed, writer.rows - writer.rows % block)
                writer.close()
                assert_holds(f"{folder}/v", committed)
                writer = Writer.resume(f"{folder}/v", memory=options["memory"])
                assert writer.rows == writer.committed == committed
            else:
                before = writer.rows
                writer.append(rows_between(before, before + step))
                assert writer.rows == before + step
        writer.finish({"y": 2})
        rows = writer.rows
        writer.close()
        assert_holds(f"{folder}/v", rows)
        assert Reader(f"{folder}/v").block_rows == block

        with Writer.create(f"{folder}/w", ARRAYS, {"x": 1}, **options) as once:
            once.append(rows_between(0, rows))
            once.finish({"y": 2})
        assert files_of(f"{folder}/v") == files_of(f"{folder}/w")


def test_rows_are_seen_when_they_are_committed(tmp_path):
    writer = Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 10 * ROW_BYTES)
    writer.append(rows_between(0, 7))
    assert (writer.rows, writer.committed, writer.bytes_written) == (7, 0, 0)
    assert_holds(tmp_path / "v", 0)
    writer.commit()
    assert (writer.rows, writer.committed) == (7, 7)
    assert_holds(tmp_path / "v", 7)
    writer.append(rows_between(7, 9))
    assert_holds(tmp_path / "v", 7)
    writer.close()
    assert_holds(tmp_path / "v", 7)


def test_bytes_written(tmp_path):
    with Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 10 * ROW_BYTES) as writer:
        writer.append(rows_between(0, 35))
        writer.finish()
    shards = [
        content for name, content in files_of(tmp_path / "v").items() if "/c." in name
    ]
    assert len(shards) == 3 * 4
    assert writer.bytes_written == sum(map(len, shards))


def test_finish(tmp_path):
    with Writer.create(tmp_path / "v", ARRAYS, {"a": 1, "b": 2}) as writer:
        writer.append(rows_between(0, 3))
        assert not Reader(tmp_path / "v").complete
        writer.finish({"b": 3, "c": 4})
        assert Reader(tmp_path / "v").complete
        assert Reader(tmp_path / "v").attributes == {"a": 1, "b": 3, "c": 4}
        with pytest.raises(StoreError, match="is finished: no more rows"):
            writer.append(rows_between(3, 4))
    with pytest.raises(StoreError, match="is complete: no rows can be added"):
        Writer.resume(tmp_path / "v")


def test_what_was_appended_may_be_changed_afterwards(tmp_path):
    batch = rows_between(0, 40)
    with Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 10 * ROW_BYTES) as writer:
        writer.append(batch)
        for array in batch.values():
            array[:] = 0
        writer.finish()
    assert_holds(tmp_path / "v", 40)


def test_arrays_of_any_order_in_memory(tmp_path):
    batch = rows_between(0, 20)
    strided = {name: np.repeat(array, 2, 0)[::2] for name, array in batch.items()}
    strided["join/in/0"] = np.asfortranarray(batch["join/in/0"])
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        writer.append(strided)
        writer.finish()
    assert_holds(tmp_path / "v", 20)


def test_a_row_that_is_larger_than_all_budgets(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 2**18))
    arrays = [ArraySpec("a", (2**18,), "float64")]
    with Writer.create(tmp_path / "v", arrays, {}, memory=1) as writer:
        writer.append({"a": rows})
        writer.finish()
    assert Reader(tmp_path / "v").block_rows == 1
    assert np.array_equal(Reader(tmp_path / "v").array("a")[:], rows)


def test_memory_is_bounded_by_the_budget(tmp_path):
    memory = 3 * 2**20
    batch = np.ones((64, 1024), "float32")
    arrays = [ArraySpec(name, (1024,), "float32") for name in ("a", "b")]
    with Writer.create(tmp_path / "v", arrays, {}, memory=memory) as writer:
        tracemalloc.start()
        for _ in range(64):
            writer.append({"a": batch, "b": batch})
        writer.commit()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert Reader(tmp_path / "v").rows == 64 * 64
    assert peak < 1.1 * memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, "int64")}, "same number of rows"),
        ({"labels": np.zeros(2, "int32")}, r"labels takes .* int64; .* dtype int32"),
        ({"labels": np.zeros(2, ">i8")}, "labels takes rows of shape"),
        ({"labels": np.zeros((2, 1), "int64")}, r"shape \(\) .* shape \(2, 1\)"),
        ({"labels": np.int64(0)}, r"found an array of shape \(\)"),
        ({"join/in/1": np.zeros((2, 3, 2), "int8")}, r"shape \(2, 3\) and dtype int8"),
        ({"other": np.zeros(2)}, r"missing: \[\], unknown: \['other'\]"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(tmp_path, change, message):
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        writer.append(rows_between(0, 3))
        with pytest.raises(OptionError, match=message):
            writer.append(rows_between(3, 5) | change)
        with pytest.raises(OptionError, match=r"missing: \['labels'\], unknown: \[\]"):
            writer.append(
                {k: v for k, v in rows_between(3, 5).items() if k != "labels"}
            )
        writer.append(rows_between(3, 6))
        writer.finish()
    assert_holds(tmp_path / "v", 6)


def test_one_writer_at_a_time(tmp_path):
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        with pytest.raises(StoreError, match="is being written already"):
            Writer.resume(tmp_path / "v")
        with pytest.raises(StoreError, match="is being written already"):
            remove(tmp_path / "v")
        writer.append(rows_between(0, 2))
        writer.commit()
    with pytest.raises(StoreError, match="is closed"):
        writer.commit()
    with Writer.resume(tmp_path / "v") as writer:
        assert writer.rows == 2


def test_attributes_that_can_not_be_kept(tmp_path):
    for attributes in ({"x": np.float32(1)}, {"complete": True}, {"x": float("inf")}):
        with pytest.raises(OptionError):
            Writer.create(tmp_path / "v", ARRAYS, attributes)
        assert not list(tmp_path.iterdir())
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        writer.append(rows_between(0, 2))
        with pytest.raises(OptionError, match="have to be JSON"):
            writer.finish({"x": object()})
        assert writer.committed == 0
        writer.finish()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        with pytest.raises(NotAStoreError):
            Writer.create(tmp_path / name, ARRAYS, {})
        with pytest.raises(NotAStoreError):
            remove(tmp_path / name)
    Writer.create(tmp_path / "store", ARRAYS, {}).close()
    with pytest.raises(StoreError, match=r"There is a store at .*/store already"):
        Writer.create(tmp_path / "store", ARRAYS, {})
    assert (tmp_path / "folder/mine.txt").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "file",
        "folder",
        "store",
    ]


def test_paths_that_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    Writer.create(tmp_path / "link", ARRAYS, {}).close()
    assert exists(tmp_path / "empty")
    Writer.create(tmp_path / "a b/ü/v", ARRAYS, {}).close()
    assert exists(tmp_path / "a b/ü/v")


def test_remove(tmp_path):
    Writer.create(tmp_path / "v", ARRAYS, {}).close()
    (tmp_path / "v/join/notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"v/join/notes\.txt is inside the store"):
        remove(tmp_path / "v")
    assert_holds(tmp_path / "v", 0)
    (tmp_path / "v/join/notes.txt").unlink()
    remove(tmp_path / "v")
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotAStoreError, match="there is nothing there"):
        remove(tmp_path / "v")


def spoil(path, block):
    """Makes one shard impossible to write, but not those after it."""
    shard = path / f"labels/c.{block}"
    shard.mkdir()
    (shard / "file").write_text("in a folder where a file should be")
    return shard


def test_errors_in_the_background_surface(tmp_path):
    path = tmp_path / "v"
    with Writer.create(path, ARRAYS, {}, memory=3 * 10 * ROW_BYTES) as writer:
        writer.append(rows_between(0, 10))
        writer.commit()
        shard = spoil(path, block=1)
        with pytest.raises(
            StoreError, match=r"a directory\. Its 10 rows so far are safe"
        ):
            writer.append(rows_between(10, 200))
        for action in (writer.commit, writer.finish):
            with pytest.raises(StoreError, match="could not be written"):
                action()
    assert writer.committed == 10
    shutil.rmtree(shard)
    assert_holds(path, 10)
    with Writer.resume(path) as writer:
        assert writer.rows == 10
        writer.append(rows_between(10, 25))
        writer.finish()
    assert_holds(path, 25)


def test_an_error_that_no_call_told_is_told_by_close(tmp_path):
    writer = Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 10 * ROW_BYTES)
    spoil(tmp_path / "v", block=0)
    writer.append(rows_between(0, 10))
    with pytest.raises(StoreError, match="could not be written"):
        writer.close()
    writer.close()


def test_the_first_error_is_the_one_that_is_told(tmp_path):
    def fail_after(rows):
        with Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 340) as writer:
            spoil(tmp_path / "v", block=0)
            writer.append(rows_between(0, rows))
            raise KeyError("the user's own")

    with pytest.raises(KeyError, match="the user's own"):
        fail_after(10)


def test_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"could not be written: File exists: .*/file"):
        Writer.create(tmp_path / "file/v", ARRAYS, {})


def test_resuming_a_damaged_block(tmp_path):
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        writer.append(rows_between(0, 7))
        writer.commit()
    (tmp_path / "v/labels/c.0").unlink()
    with pytest.raises(StoreCorruptError, match="rows 0 to 6 of labels are damaged"):
        Writer.resume(tmp_path / "v")
