"""A store under which something fails, and what then has to hold."""

import errno
import os
import re

import numpy as np
import zarr

from layertap.errors import StoreError
from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of, reopening_of

ARRAYS = [ArraySpec("a/0", (300,), "float32"), ArraySpec("a/1", (), "int32")]
BLOCK = 32
MEMORY = 3 * BLOCK * 1204
SAFE, TOTAL = 40, 150

# A program that goes on with stores, which says how that ended.
GO_ON = """
import sys
from layertap.errors import StoreError
from layertap.store.writing.writer import Writer
from tests.support import faulty_store as t
for path in sys.argv[1:]:
    try:
        t.write_all(Writer.resume(path, memory=t.MEMORY))
        print("done", flush=True)
    except StoreError as error:
        print(error, flush=True)
"""
ADVICE = {
    "ENOSPC": "Free some space",
    "EDQUOT": "Free some space",
    "EACCES": "Check who may write there",
    "EPERM": "Check who may write there",
    "EROFS": "Make the disk writable",
    "EMFILE": "Raise the limit on open files",
    "ENFILE": "Raise the limit on open files",
    "EIO": "Check the disk",
}


def rows_between(start, stop):
    rows = np.arange(start, stop)
    return {
        "a/0": np.cos(rows[:, None] + np.arange(300.0)).astype("float32"),
        "a/1": rows.astype("int32") + 1,
    }


def begin(path):
    """Makes a store and commits some rows, the last of them in a block with room."""
    writer = Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY)
    writer.append(rows_between(0, SAFE))
    writer.commit()
    return writer


def go_on(writer):
    """Writes all the rest, batch by batch."""
    for start in range(writer.rows, TOTAL, 25):
        writer.append(rows_between(start, min(start + 25, TOTAL)))
    writer.finish()


def leave(path):
    """Makes a store with some rows, and leaves it."""
    begin(path).close()
    return path


def leave_complete(path):
    """Makes a store that is complete with some rows."""
    with begin(path) as writer:
        writer.finish()
    return path


def resume(path):
    """Opens a store to write more rows, complete or not."""
    return Writer.resume(path, memory=MEMORY, reopening=reopening_of(path))


def rows_reported(error):
    """The number of rows that are safe, as an error says."""
    found = re.search(r"Its ([\d,]+) rows so far are safe\. ", str(error))
    assert found, error
    return int(found[1])


def assert_explained(error, path, code):
    """Asserts that an error says what is wrong where, and what to do."""
    message = str(error)
    assert type(error) is StoreError
    assert message.startswith(f"{path} could not be written: ")
    assert os.strerror(getattr(errno, code)) in message
    assert ADVICE[code] in message
    assert message.endswith(", then do the same again.")


def error_of(action, *arguments):
    """The error that an action raises, if it does, which has to be a `StoreError`."""
    try:
        action(*arguments)
    except StoreError as error:
        return error
    return None


def write_all(writer):
    with writer:
        go_on(writer)


def write_from_the_start(writer):
    writer.append(rows_between(0, SAFE))
    writer.commit()
    write_all(writer)


def assert_right(path, least=SAFE):
    """Asserts that what can be seen is right, in zarr-python, too.

    Args:
        path: A folder, or a place as of the suites.
        least: How many rows there are at least.
    """
    place = _place(path)
    reader = Reader(place.path)
    assert reader.rows >= least
    with place.local() as folder:
        group = zarr.open_group(folder, mode="r")
        for name, expected in rows_between(0, TOTAL).items():
            assert all(error is None for _, error in reader.array(name).check())
            found = reader.array(name)[:]
            assert np.array_equal(found, expected[: reader.rows])
            shown = group[name][:]
            assert len(shown) >= reader.rows
            assert np.array_equal(shown, expected[: len(shown)])


def assert_goes_on(path, undisturbed):
    """Asserts that the same store comes out as if nothing had happened."""
    place = _place(path)
    if not (Reader(place.path).complete and Reader(place.path).rows == TOTAL):
        write_all(resume(place.path))
    assert_right(place, TOTAL)
    assert contents_of(place) == undisturbed


def _place(path):
    return path if hasattr(path, "local") else Folder(path)
