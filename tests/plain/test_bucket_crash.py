"""A process at a store in a bucket is killed after each of its requests that write.

Then the store is there, or is not, and the same call ends as if nothing had happened.
"""

import itertools
from concurrent.futures import Future

import pytest

from faults import python, running
from faulty_store import (
    ARRAYS,
    MEMORY,
    assert_goes_on,
    assert_right,
    begin,
    leave,
    write_all,
    write_from_the_start,
)
from layertap.errors import NotAStoreError
from layertap.store import Reader, Writer, exists, remove
from object_proxy import kills, served
from store_bucket import Bucket
from store_suite import contents_of

# Has children do things. They have TensorStore imported, but it has no threads yet.
NURSERY = """
import os, sys
import tensorstore
import faulty_store as t
from layertap.store import Writer, remove

def create(path):
    writer = Writer.create(path, t.ARRAYS, {"x": 1}, memory=t.MEMORY)
    t.write_from_the_start(writer)

def resume(path):
    t.write_all(Writer.resume(path, memory=t.MEMORY))

for line in sys.stdin:
    action, path = line.split()
    child = os.fork()
    if not child:
        globals()[action](path)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def undisturbed(object_store):
    """What is in a store that nothing has happened to."""
    place = Bucket.new(object_store)
    write_all(begin(place.path))
    return contents_of(place)


@pytest.fixture
def killed(object_store, proxy, monkeypatch):
    """A function: has a child do something, is killed; gives the store each time."""

    def each_time(nursery, action, prepare):
        for number in itertools.count():
            place, child = Bucket.new(object_store), Future()
            prepare(place.path)
            writes = itertools.count()
            kill = kills(child.result)
            # All after it are those that were under way.
            proxy.fate = lambda request, writes=writes, number=number, kill=kill: (
                kill if request.writes and next(writes) >= number else served
            )
            nursery.stdin.write(f"{action} {place.path}\n")
            child.set_result(int(nursery.stdout.readline()))
            status = int(nursery.stdout.readline())
            proxy.fate = lambda request: served
            yield place
            if not status:
                assert number
                return
            assert status == 9

    with running(python(NURSERY)) as nursery:
        yield lambda *arguments: each_time(nursery, *arguments)


def write_again(place, undisturbed):
    """Does the same again: goes on, or begins."""
    if not exists(place.path):
        with pytest.raises(NotAStoreError):
            Reader(place.path)
        writer = Writer.create(place.path, ARRAYS, {"x": 1}, memory=MEMORY)
        write_from_the_start(writer)
    assert_goes_on(place, undisturbed)


def test_a_store_is_made_whole_or_not_at_all(killed, undisturbed):
    there = []
    for place in killed("create", lambda path: None):
        there.append(exists(place.path))
        if there[-1]:
            assert_right(place, 0)
        write_again(place, undisturbed)
    assert there == sorted(there)
    assert False in there


def test_going_on_is_as_if_nothing_were(killed, undisturbed):
    for place in killed("resume", leave):
        assert_right(place)
        write_again(place, undisturbed)


def test_a_store_is_there_until_it_is_removed(killed, undisturbed):
    there = []
    for place in killed("remove", leave):
        there.append(exists(place.path))
        if there[-1]:
            assert_right(place)
        write_again(place, undisturbed)
        remove(place.path)
        assert place.names() == []
    assert there == sorted(there, reverse=True)
