"""Two writers of one store in a bucket, where nothing can be locked.

One on the same host is refused. One on another host can't be distinguished from a
killed one: the second writer continues, and the first one is refused.
"""

import itertools
import os
import queue
import socket
import threading

import pytest

from layertap.errors import StoreError
from layertap.store.location import exists, remove
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.faulty_store import (
    ARRAYS,
    MEMORY,
    SAFE,
    TOTAL,
    assert_goes_on,
    assert_right,
    begin,
    error_of,
    go_on,
    leave,
    rows_reported,
    write_all,
    write_from_the_start,
)
from tests.support.nursery import nursery
from tests.support.object_proxy import served, standing_before
from tests.support.store_bucket import Bucket

pytestmark = pytest.mark.slow

TAKEN_OVER = "was taken over by another writer"


@pytest.fixture
def place(object_store):
    return Bucket.new(object_store)


def write(path):
    """Makes a store, or resumes it, to its end."""
    if exists(path):
        write_all(Writer.resume(path, memory=MEMORY))
    else:
        writer = Writer.create(path, ARRAYS, {"x": 1}, memory=MEMORY)
        write_from_the_start(writer)


class Meeting:
    """Two writers of one store; the first, elsewhere, is paused while the second comes.

    Args:
        children: Who has the first one as a child.
        theirs: The proxy before the first one.
        ours: The proxy before the second one, this process.
    """

    def __init__(self, children, theirs, ours):
        self._children, self._theirs, self._ours = children, theirs, ours

    def hold(self, place, first, second=None):
        """Has the two write.

        Args:
            place: The store.
            first: Before which of its requests that write the first one waits.
            second: At which of the second one's it goes on; None for after all.

        Returns:
            What the first one said, and the error of the second one; None if the first
            ended before it had to wait.
        """
        news, over = queue.Queue(), threading.Event()

        def waits(request):
            news.put(None)
            over.wait()
            served(request)

        def goes_on(request):
            over.set()
            served(request)

        self._theirs.fate = _from(first, waits)
        self._ours.fate = _from(second, goes_on)
        self._children.start("write", place.path)
        said = threading.Thread(target=lambda: news.put(self._children.ended().said))
        said.start()
        output = news.get()
        met = output is None
        error = error_of(write, place.path) if met else None
        over.set()
        said.join()
        while output is None:
            output = news.get()
        return (output, error) if met else None


def _from(number, fate):
    """The fates of requests, from a certain one that writes on; None for never."""
    writes = itertools.count()

    def decide(request):
        late = number is not None and request.writes and next(writes) >= number
        return fate if late else served

    return decide


@pytest.fixture
def meeting(object_store, proxy, monkeypatch):
    with (
        nursery("elsewhere") as children,
        standing_before(object_store) as ours,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", ours.endpoint)
        yield Meeting(children, proxy, ours)


@pytest.mark.campaign
def test_another_host_takes_over_at_any_moment(
    object_store, meeting, undisturbed_bucket
):
    output = []
    step = times(6, 1)
    for first in itertools.count(step=step):
        place = Bucket.new(object_store)
        met = meeting.hold(place, first)
        if met is None:
            break
        said, error = met
        assert error is None, (first, said)
        output.append(said)
        assert_goes_on(place, undisturbed_bucket)
    assert "There is a store at" in output[0]
    assert [said for said in output[1:-1] if TAKEN_OVER not in said] == []
    # All that was left to it is to call the store complete, which it is.
    assert output[-1] == "done" or (step > 1 and TAKEN_OVER in output[-1])
    assert len(output) > times(3, 20)


@pytest.mark.campaign
def test_two_hosts_at_once(object_store, meeting, undisturbed_bucket):
    """One of them ends, or both raise; then the same call ends. Nothing is mixed."""
    ended = {"first": 0, "second": 0, "neither": 0}
    for first in range(0, 20, times(7, 1)):
        place = Bucket.new(object_store)
        said, error = meeting.hold(place, first, 7 * first % 16)
        assert said != "done" or error is not None
        assert said == "done" or "s3://" in said
        ended["first" if said == "done" else "neither" if error else "second"] += 1
        if not exists(place.path):
            write(place.path)
        assert_goes_on(place, undisturbed_bucket)
    print(ended)


def test_the_same_host_is_told_who_writes(place, undisturbed_bucket):
    with nursery() as children, begin(place.path) as writer:
        number = os.getpid()
        who = f"by process {number} on {socket.gethostname()}, since 20"
        children.start("write", place.path)
        assert f"{place.path} is being written already, {who}" in children.ended().said
        go_on(writer)
    assert_goes_on(place, undisturbed_bucket)


def test_threads_that_begin_one_store_at_once(object_store, undisturbed_bucket):
    for _ in range(5):
        place, won, output = Bucket.new(object_store), [], []

        def try_it(start, place=place, won=won, output=output):
            start.wait()
            try:
                won.append(Writer.create(place.path, ARRAYS, {"x": 1}, memory=MEMORY))
            except StoreError as error:
                output.append(str(error))

        start = threading.Barrier(4)
        threads = [threading.Thread(target=try_it, args=(start,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(output)) == (1, 3), output
        assert all("is being written already" in message for message in output), output
        write_from_the_start(*won)
        assert_goes_on(place, undisturbed_bucket)


def test_who_was_taken_over_is_told_what_is_safe(place, undisturbed_bucket):
    first = begin(place.path)
    with nursery("elsewhere") as children:
        children.start("write", place.path)
        assert children.ended().said == "done"
    with pytest.raises(StoreError, match=TAKEN_OVER) as caught, first:
        go_on(first)
    assert str(caught.value).startswith(f"{place.path} was taken over")
    assert rows_reported(caught.value) == SAFE
    assert "Wait until that one has ended, then repeat the call." in str(caught.value)
    assert_goes_on(place, undisturbed_bucket)


def test_a_store_that_another_host_removes(place):
    first = begin(place.path)
    with nursery("elsewhere") as children:
        children.start("remove", place.path)
        assert children.ended().said == "done"
    assert not exists(place.path)
    with pytest.raises(StoreError, match=TAKEN_OVER), first:
        go_on(first)
    assert not exists(place.path)
    write(place.path)
    assert_right(place, TOTAL)


def test_what_is_not_ours_is_not_deleted(place):
    leave(place.path)
    place.write("a/mine.txt", b"mine")
    names = place.names()
    with pytest.raises(StoreError, match=r"a/mine\.txt is inside the store .* Nothing"):
        remove(place.path)
    assert place.names() == names
    assert_right(place)
    place.delete("a/mine.txt")
    remove(place.path)
    assert place.names() == []


def test_objects_that_are_no_store_are_left_alone(place):
    place.write("mine.txt", b"mine")
    for action in (exists, Reader, remove, write):
        with pytest.raises(StoreError, match=r"there is no zarr\.json there"):
            action(place.path)
    assert place.names() == ["mine.txt"]


def test_names_that_begin_alike_are_other_stores(place, object_store):
    other = Bucket(object_store, f"{place.path}-2")
    write(place.path)
    write(other.path)
    remove(place.path)
    assert place.names() == []
    assert_right(other, TOTAL)
