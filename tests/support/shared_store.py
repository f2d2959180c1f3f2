"""A store that workers write, as tests make it."""

import pickle

from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer
from tests.support.store_folder import Folder
from tests.support.store_rows import ARRAYS, ROW_BYTES, contents_of, rows_between

BLOCK, ROWS = 10, 47
LAST = 4
MEMORY = 3 * BLOCK * ROW_BYTES
NOTED = {"y": 2}


def begin(path, rows=ROWS, **options):
    return SharedWriter.create(
        path, ARRAYS, {"x": 1}, rows=rows, memory=MEMORY, **options
    )


def write(claim, *blocks, change=0):
    """Writes blocks as a worker does, which has its claim pickled."""
    worker = BlockWorker(pickle.loads(pickle.dumps(claim)))
    for number in blocks:
        rows = worker.rows_of(number)
        block = worker.begin(number)
        values = rows_between(block.end, rows.stop)
        block.append(values | {"labels": values["labels"] + change})
        worker.write(block, {"of": number})


def contents_at_once(folder, rows=ROWS, compression=None):
    """The content of a store that one writer wrote without a break."""
    path = folder / "once"
    with Writer.create(
        path, ARRAYS, {"x": 1}, memory=MEMORY, compression=compression
    ) as writer:
        writer.append(rows_between(0, rows))
        writer.finish(lambda: NOTED)
    return contents_of(Folder(path))


def record(path, block, rows=BLOCK):
    return path / "~blocks" / f"{block}.{rows}"
