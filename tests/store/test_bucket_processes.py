"""Readers of a store in a bucket in other processes, and the output of one."""

import multiprocessing
import pickle

import numpy as np
import pytest

from layertap.store.reading.reader import Reader
from tests.support.faults import python, run
from tests.support.faulty_store import SAFE, begin, leave, rows_between, write_all
from tests.support.store_bucket import Bucket

pytestmark = pytest.mark.slow


@pytest.fixture
def place(object_store):
    return Bucket.new(object_store)


def read_there(reader, rows):
    """Reads some rows, in another process."""
    return reader.array("a/0")[rows]


def test_a_reader_goes_to_a_process_that_is_spawned(place):
    write_all(begin(place.path))
    reader = Reader(place.path)
    expected = reader.array("a/0")[10:120]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(read_there, (reader, slice(10, 120)))
    assert np.array_equal(found, expected)


def test_a_reader_that_was_pickled_reads_on(place):
    reader = Reader(leave(place.path))
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.path == reader.path
    assert np.array_equal(copy.array("a/0")[:], rows_between(0, SAFE)["a/0"])


FORK = """
import os, sys
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
path, when = sys.argv[1:]
if when == "after":
    reader = Reader(path)
    reader.array("a/0")[:]
child = os.fork()
if not child:
    for action in (lambda: reader.array("a/0")[:], lambda: Reader(path)):
        try:
            action()
            print("read", flush=True)
        except StoreError as error:
            print(error, flush=True)
        except NameError:
            pass
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
if when == "after":
    reader.array("a/0")[:]
Reader(path)
print("read by the parent")
"""


def test_a_process_that_was_forked_says_that_it_can_not(place):
    """TensorStore would end it: it has threads, which only the parent has."""
    leave(place.path)
    *output, parent = run(python(FORK, place.path, "after"))
    assert len(output) == 2
    for message in output:
        assert "This process was forked from one that had used a store at s3" in message
        assert 'multiprocessing_context="spawn" of a DataLoader' in message
    assert parent == "read by the parent"


def test_a_process_that_was_forked_before_reads(place):
    leave(place.path)
    assert run(python(FORK, place.path, "before")) == ["read", "read by the parent"]


RUN = """
import os, sys
from layertap.store.location import remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support import faulty_store as t
os.dup2(1, 2)
path = sys.argv[1]
t.leave(path)
t.write_all(Writer.resume(path, memory=t.MEMORY))
Reader(path).array("a/0")[:]
remove(path)
"""


def test_a_run_prints_nothing(place):
    """Neither does TensorStore, of credentials that are elsewhere, say."""
    assert run(python(RUN, place.path)) == []
