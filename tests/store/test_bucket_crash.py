"""A process at a store in a bucket is killed after each of its requests that write.

Then the store exists, or does not, and the same call ends as without a crash.
"""

import itertools
import signal
from concurrent.futures import Future

import pytest

from layertap.errors import NotAStoreError
from layertap.store.location import exists, remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.faulty_store import (
    ARRAYS,
    MEMORY,
    assert_goes_on,
    assert_right,
    leave,
    leave_complete,
    write_from_the_start,
)
from tests.support.nursery import nursery
from tests.support.object_proxy import kills, served
from tests.support.store_bucket import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.campaign]


@pytest.fixture
def killed(object_store, proxy):
    """A function: a child does something, is killed; yields the store each time."""

    def each_time(children, action, prepare):
        for number in itertools.count(step=times(6, 1)):
            place, child, writes = Bucket.new(object_store), Future(), itertools.count()
            prepare(place.path)
            proxy.fate = killing(child, writes, number)
            child.set_result(children.start(action, place.path))
            ended = children.ended()
            proxy.fate = lambda request: served
            yield place
            if ended.said:
                assert ended == ("done", 0)
                assert number
                return
            assert ended.status == signal.SIGKILL

    with nursery() as children:
        yield lambda *arguments: each_time(children, *arguments)


def killing(child, writes, number):
    """The fates of requests, if the child is killed after a certain one that writes.

    Those that come after it were under way.
    """
    kill = kills(child.result)

    def fate(request):
        return kill if request.writes and next(writes) >= number else served

    return fate


def write_again(place, undisturbed_bucket):
    """Does the same again: resumes, or begins."""
    if not exists(place.path):
        with pytest.raises(NotAStoreError):
            Reader(place.path)
        writer = Writer.create(place.path, ARRAYS, {"x": 1}, memory=MEMORY)
        write_from_the_start(writer)
    assert_goes_on(place, undisturbed_bucket)


def test_a_store_is_made_whole_or_not_at_all(killed, undisturbed_bucket):
    there = []
    for place in killed("write", lambda path: None):
        there.append(exists(place.path))
        if there[-1]:
            assert_right(place, 0)
        write_again(place, undisturbed_bucket)
    assert there == sorted(there)
    assert False in there


def test_going_on_is_as_if_nothing_were(killed, undisturbed_bucket):
    for place in killed("resume", leave):
        assert_right(place)
        write_again(place, undisturbed_bucket)


def test_a_complete_store_keeps_its_rows_while_it_grows(killed, undisturbed_bucket):
    for place in killed("resume", leave_complete):
        assert_right(place)
        write_again(place, undisturbed_bucket)


def test_a_store_is_there_until_it_is_removed(killed, undisturbed_bucket):
    there = []
    for place in killed("remove", leave):
        there.append(exists(place.path))
        if there[-1]:
            assert_right(place)
        write_again(place, undisturbed_bucket)
        remove(place.path)
        assert place.names() == []
    assert there == sorted(there, reverse=True)
