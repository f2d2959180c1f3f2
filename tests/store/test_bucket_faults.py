"""An object store that answers errors, late or not at all: retried, or reported.

Committed rows stay right, and the same call continues when the cause is gone.
"""

import itertools
import socket

import numpy as np
import pytest

from layertap.errors import OptionError, StoreError
from layertap.store.location import exists, remove
from layertap.store.reading import object_shards
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import share
from tests.support.faults import python, run
from tests.support.faulty_store import (
    ARRAYS,
    MEMORY,
    SAFE,
    assert_goes_on,
    assert_right,
    begin,
    error_of,
    leave,
    rows_between,
    rows_reported,
    write_all,
    write_from_the_start,
)
from tests.support.object_proxy import (
    cut_short,
    dropped,
    late,
    refused,
    served,
    unanswered,
)
from tests.support.store_bucket import Bucket

pytestmark = pytest.mark.slow

FATES = {
    "slow down": refused(503, "SlowDown"),
    "internal error": refused(500, "InternalError"),
    "dropped": dropped,
    "unanswered": unanswered,
    "cut short": cut_short,
    "late": late,
}


@pytest.fixture
def place(object_store):
    return Bucket.new(object_store)


def every(number, fate):
    """One request in so many has a fate; all others are served."""
    count = itertools.count(1)
    return lambda request: served if next(count) % number else fate


@pytest.mark.parametrize("fate", share(3, FATES))
def test_requests_that_fail_are_tried_again(place, proxy, undisturbed_bucket, fate):
    proxy.fate = every(7, FATES[fate])
    writer = Writer.create(place.path, ARRAYS, {"x": 1}, memory=MEMORY)
    writer.append(rows_between(0, SAFE))
    writer.close()
    write_all(Writer.resume(place.path, memory=MEMORY))
    assert_goes_on(place, undisturbed_bucket)
    remove(place.path)
    assert place.names() == []


def test_writes_of_which_all_answers_are_lost(place, proxy, undisturbed_bucket):
    """A request that succeeded is repeated, and refused: the object has changed."""
    lost = set()

    def once(request):
        if not request.writes or request.content in lost:
            return served
        lost.add(request.content)
        return unanswered

    proxy.fate = once
    write_from_the_start(Writer.create(place.path, ARRAYS, {"x": 1}, memory=MEMORY))
    assert len(lost) > 15
    assert_goes_on(place, undisturbed_bucket)


@pytest.mark.parametrize("fate", ["slow down", "internal error", "dropped"])
def test_an_object_store_that_is_down(
    place, proxy, undisturbed_bucket, monkeypatch, fate
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    writer = begin(place.path)
    reader = Reader(place.path)
    proxy.fate = lambda request: FATES[fate]
    error = error_of(write_all, writer)
    assert rows_reported(error) == SAFE
    assert str(error).startswith(f"{place.path} could not be written: {place.path}/a/")
    assert "All 1 retry attempts failed" in str(error)
    assert str(error).endswith("then do the same again.")
    for action in (Reader, Writer.resume, remove, exists, begin):
        with pytest.raises(StoreError, match=f"{place.path}/zarr.json can't be read"):
            action(place.path)
    with pytest.raises(
        StoreError, match=r"rows 0 to 39 can't be read: .*Check the conn"
    ):
        reader.array("a/0")[:]
    proxy.fate = lambda request: served
    assert np.array_equal(reader.array("a/0")[:], rows_between(0, SAFE)["a/0"])
    assert_right(place)
    assert_goes_on(place, undisturbed_bucket)


def test_single_rows_ask_for_the_store_once_a_second(place, proxy, monkeypatch):
    leave(place.path)
    array = Reader(place.path).array("a/0")

    def asked(rows):
        proxy.seen.clear()
        expected = rows_between(0, SAFE)["a/0"]
        for row in rows:
            assert np.array_equal(array[row : row + 1], expected[row : row + 1])
        return sum(path.endswith("a/0/zarr.json") for _, path in proxy.seen)

    monkeypatch.setattr(object_shards, "_TRUSTED", 1e9)
    assert asked(range(20)) == 1
    assert len(proxy.seen) <= 20 + 2
    monkeypatch.setattr(object_shards, "_TRUSTED", 0)
    assert asked(range(20, 25)) == 5


@pytest.mark.parametrize(
    "code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"]
)
def test_credentials_that_are_refused(place, proxy, undisturbed_bucket, code):
    """At once: trying again is of no use."""
    leave(place.path)
    reader = Reader(place.path)
    proxy.fate = lambda request: refused(403, code)
    proxy.seen.clear()
    for action in (Reader, Writer.resume, remove, exists, begin):
        with pytest.raises(StoreError, match=f"{code}.*Check .* the credentials"):
            action(place.path)
    with pytest.raises(StoreError, match=f"{code}.*Check .* the credentials"):
        reader.array("a/0")[:]
    assert len(proxy.seen) < 20
    proxy.fate = lambda request: served
    assert_goes_on(place, undisturbed_bucket)


def test_a_right_to_write_that_is_missing(place, proxy, undisturbed_bucket):
    writer = begin(place.path)
    denied = refused(403, "AccessDenied")
    proxy.fate = lambda request: denied if request.writes else served
    error = error_of(write_all, writer)
    assert "can't be written: PERMISSION_DENIED: AccessDenied" in str(error)
    assert rows_reported(error) == SAFE
    for action in (Writer.resume, remove):
        with pytest.raises(StoreError, match="AccessDenied"):
            action(place.path)
    assert_right(place)
    proxy.fate = lambda request: served
    assert_goes_on(place, undisturbed_bucket)


def test_no_bucket(object_store):
    path = "s3://there-is-none/v.zarr"
    for action in (Reader, Writer.resume, remove, exists, begin):
        with pytest.raises(StoreError, match=rf"{path}.*NoSuchBucket.*the bucket"):
            action(path)


@pytest.mark.parametrize(
    "path", ["s3://b", "s3://", "s3:///v", "s3://b/a/../v", "x://b/v"]
)
def test_urls_that_are_not_a_place(path):
    with pytest.raises(
        OptionError, match=r"is not a place for a store\. .*s3://bucket/val"
    ):
        Reader(path)


def test_a_name_that_no_bucket_has(object_store):
    with pytest.raises(StoreError, match="The bucket 'Über' can't be opened: Invalid"):
        Reader("s3://Über/v.zarr")


def test_attempts_are_a_number(object_store, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(OptionError, match=r"AWS_MAX_ATTEMPTS is .* Received 'many'"):
        Reader("s3://bucket/v.zarr")


def test_a_corrected_environment_counts(place, monkeypatch):
    leave(place.path)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with monkeypatch.context() as patch, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(
            StoreError, match=r"Could not connect .*AWS_ENDPOINT_URL le"
        ):
            Reader(place.path)
    assert_right(place)


READ = """
import sys
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
try:
    Reader(sys.argv[1])
except StoreError as error:
    print(error)
"""


def test_who_never_answers_is_not_waited_for(monkeypatch):
    """For half a minute, which the variable of TensorStore's makes a second here."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        (output,) = run(python(READ, "s3://bucket/v.zarr"))
    assert "Timeout was reached" in output
