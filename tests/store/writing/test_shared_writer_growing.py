"""A store that many write, of data that have become more or fewer."""

import numpy as np
import pytest

from layertap.errors import OptionError, StoreError
from layertap.store.reading.reader import Reader
from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer
from tests.support.shared_store import (
    BLOCK,
    LAST,
    MEMORY,
    NOTED,
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
    reopening_of,
    rows_between,
)


@pytest.mark.parametrize("more", [48, 50, 51, 90])
def test_data_that_have_become_more(tmp_path, more):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 0, 2, 3, LAST)
    with SharedWriter.resume(path, rows=more) as writer:
        # The last block was not full.
        assert writer.missing() == [1, *range(LAST, writer.blocks)]
        assert not record(path, LAST, 7).exists()
        write(writer.claim, *writer.missing())
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path, more)


@pytest.mark.parametrize("more", [26, 31, 47])
def test_a_complete_store_gets_more_rows(tmp_path, more):
    path = tmp_path / "v"
    with begin(path, rows=24) as writer:
        write(writer.claim, *writer.missing())
        writer.finish(lambda: {"of": 24})
    before = Reader(path)
    with pytest.raises(StoreError, match="is complete: no rows can be added"):
        SharedWriter.resume(path, rows=more)
    known = reopening_of(path)
    with SharedWriter.resume(path, rows=more, reopening=known) as writer:
        assert (Reader(path).rows, Reader(path).complete) == (24, False)
        # The last block of before was not full.
        assert writer.missing()[0] == 24 // BLOCK
        # Its rows of before stay to the bit, even if others would be computed now.
        worker = BlockWorker(writer.claim)
        block = worker.begin(24 // BLOCK)
        assert block.end == 24
        write(writer.claim, *writer.missing())
        assert complaints(path) == {}
        assert_holds(Folder(path), 24)
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path, rows=more)
    for name, expected in rows_between(0, 24).items():
        assert np.array_equal(before.array(name)[:], expected)


def test_rows_that_only_some_arrays_have_are_not_mixed_with_others(tmp_path):
    """A writer was killed while it replaced the markers; workers compute otherwise."""
    path = tmp_path / "v"
    with Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY) as one:
        one.append(rows_between(0, BLOCK - 1))
        one.commit()
        earlier = (path / "labels/zarr.json").read_bytes()
        one.append(rows_between(BLOCK - 1, BLOCK))
        one.commit()
    (path / "labels/zarr.json").write_bytes(earlier)
    with SharedWriter.resume(path, rows=BLOCK) as writer:
        worker = BlockWorker(writer.claim)
        block = worker.begin(0)
        values = rows_between(BLOCK - 1, BLOCK)
        block.append(values | {"join/in/1": values["join/in/1"] + np.int8(1)})
        worker.write(block)
        writer.finish()
    assert complaints(path) == {}


def test_data_that_have_become_fewer(tmp_path):
    path = tmp_path / "v"
    with begin(path) as writer:
        write(writer.claim, 0, 2, 3, LAST)
    with SharedWriter.resume(path, rows=25) as writer:
        assert writer.missing() == [1, 2]
        write(writer.claim, 1, 2)
        writer.finish(lambda: NOTED)
    assert contents_of(Folder(path)) == contents_at_once(tmp_path, 25)
    path = tmp_path / "rows-that-count"
    with begin(path) as writer:
        write(writer.claim, 0, 1)
    with pytest.raises(OptionError, match="has 20 rows; it can't have 19"):
        SharedWriter.resume(path, rows=19)
    # It can be written again.
    SharedWriter.resume(path, rows=20).close()
