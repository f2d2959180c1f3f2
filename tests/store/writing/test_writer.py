"""Writing a store: copied values, memory, refused values."""

import shutil
import tracemalloc
from threading import Event, Timer

import numpy as np
import pytest

from layertap.errors import NotAStoreError, OptionError, StoreError
from layertap.store.format.layout import ArraySpec
from layertap.store.format.shard import ShardEncoder
from layertap.store.location import exists, remove
from layertap.store.reading.reader import Reader
from layertap.store.storage.files import LocalStorage
from layertap.store.writing.blocks import BlockWriter
from layertap.store.writing.writer import Writer
from tests.support.store_folder import Folder
from tests.support.store_rows import ARRAYS, ROW_BYTES, assert_holds, rows_between


def test_what_was_appended_may_be_changed_afterwards(tmp_path):
    batch = rows_between(0, 40)
    with Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 10 * ROW_BYTES) as writer:
        writer.append(batch)
        for array in batch.values():
            array[:] = 0
        writer.finish()
    assert_holds(Folder(tmp_path / "v"), 40)


def test_arrays_of_any_order_in_memory(tmp_path):
    batch = rows_between(0, 20)
    strided = {name: np.repeat(array, 2, 0)[::2] for name, array in batch.items()}
    strided["join/in/0"] = np.asfortranarray(batch["join/in/0"])
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        writer.append(strided)
        writer.finish()
    assert_holds(Folder(tmp_path / "v"), 20)


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


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("known", [True, False])
def test_a_small_store_is_small_whether_its_rows_are_known_or_not(tmp_path, known):
    path, batch = tmp_path / "v", rows_between(0, 40)
    with Writer.create(path, ARRAYS, {}, rows=40 if known else None) as writer:
        writer.append(batch)
        writer.finish()
    values = sum(array.nbytes for array in batch.values())
    assert size_of(path) < 1.2 * values + 4096 * len(ARRAYS)
    assert_holds(Folder(path), 40)


def test_a_first_commit_that_is_cut_off_leaves_no_rows_and_can_be_resumed(
    tmp_path, monkeypatch
):
    """Without known rows, it changes the sizes of arrays, one after the other."""
    path = tmp_path / "v"
    replace = LocalStorage.replace

    def cut(storage, files):
        if not all(name.endswith("zarr.json") for name in files):
            return replace(storage, files)
        replace(storage, dict(list(files.items())[:1]))
        raise OSError("cut off")

    with Writer.create(path, ARRAYS, {}) as writer:
        writer.append(rows_between(0, 40))
        monkeypatch.setattr(LocalStorage, "replace", cut)
        with pytest.raises(StoreError):
            writer.finish()
        monkeypatch.undo()
    sizes = {
        reader.block_rows for reader in map(Reader(path).array, Reader(path).paths)
    }
    assert len(sizes) == 2
    assert Reader(path).rows == 0
    with Writer.resume(path) as writer:
        assert writer.rows == 0
        writer.append(rows_between(0, 40))
        writer.finish()
    assert_holds(Folder(path), 40)


def test_attributes_that_can_not_be_kept(tmp_path):
    for attributes in ({"x": np.float32(1)}, {"complete": True}, {"x": float("inf")}):
        with pytest.raises(OptionError):
            Writer.create(tmp_path / "v", ARRAYS, attributes)
        assert not list(tmp_path.iterdir())
    with Writer.create(tmp_path / "v", ARRAYS, {}) as writer:
        writer.append(rows_between(0, 2))
        with pytest.raises(OptionError, match="have to be JSON"):
            writer.finish(lambda: {"x": object()})
        assert not Reader(tmp_path / "v").complete
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
    assert_holds(Folder(tmp_path / "v"), 0)
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
            StoreError, match=r"Is a directory: .*\. Its 10 rows so far are safe"
        ):
            writer.append(rows_between(10, 200))
        for action in (writer.commit, writer.finish):
            with pytest.raises(StoreError, match="could not be written"):
                action()
    assert writer.committed == 10
    shutil.rmtree(shard)
    assert_holds(Folder(path), 10)
    with Writer.resume(path) as writer:
        assert writer.rows == 10
        writer.append(rows_between(10, 25))
        writer.finish()
    assert_holds(Folder(path), 25)


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


def test_an_interrupt_between_two_blocks_harms_none(tmp_path, monkeypatch):
    """The block is submitted twice, but its memory is used again only once."""
    interrupts = [KeyboardInterrupt, KeyboardInterrupt]
    new_block = BlockWriter.new_block

    def interrupted(self, first):
        if first >= 20 and interrupts:
            raise interrupts.pop()
        return new_block(self, first)

    monkeypatch.setattr(BlockWriter, "new_block", interrupted)
    path = tmp_path / "v"
    with Writer.create(path, ARRAYS, {}, memory=3 * 10 * ROW_BYTES) as writer:
        while writer.rows < 200:
            start = writer.rows
            try:
                writer.append(rows_between(start, start + 5))
            except KeyboardInterrupt:
                assert writer.rows in (start, start + 5)
        writer.finish()
    assert not interrupts
    assert_holds(Folder(path), 200)


def test_the_memory_of_blocks_is_used_again(tmp_path):
    """Each new page of it would have to be cleared first."""
    with Writer.create(tmp_path / "v", ARRAYS, {}, memory=3 * 10 * ROW_BYTES) as writer:
        seen = set()
        for start in range(0, 500, 10):
            writer.append(rows_between(start, start + 10))
            writer.commit()
            seen.update(id(array) for array in writer._block.values.values())
    assert len(seen) <= 3 * len(ARRAYS)


def test_rows_that_come_after_an_interrupted_commit(tmp_path, monkeypatch):
    """They are not added to a chunk while it is being written."""
    path = tmp_path / "v"
    wait, submit, slow = BlockWriter.wait, BlockWriter.submit, Event()
    contents = ShardEncoder.__iter__

    def interrupted(self, most=0):
        if submitted and not interrupts:
            interrupts.append(KeyboardInterrupt)
            # Once the next rows have come, if nothing keeps them.
            Timer(0.2, slow.set).start()
            raise interrupts[0]
        wait(self, most)

    def noted(self, block):
        submit(self, block)
        submitted.append(block)

    def slowly(self):
        for piece in contents(self):
            slow.wait()
            yield piece

    submitted, interrupts = [], []
    with Writer.create(path, ARRAYS, {}) as writer:
        writer.append(rows_between(0, 20))
        with monkeypatch.context() as patched:
            patched.setattr(BlockWriter, "wait", interrupted)
            patched.setattr(BlockWriter, "submit", noted)
            patched.setattr(ShardEncoder, "__iter__", slowly)
            with pytest.raises(KeyboardInterrupt):
                writer.commit()
            writer.append(rows_between(20, 50))
        assert writer.committed == 20
        assert_holds(Folder(path), 20)
        writer.finish()
    assert_holds(Folder(path), 50)
