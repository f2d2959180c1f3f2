"""What tests of a store share; and assertions of the suites that say what differs."""

import pytest

from tests.support.faults import small_disk
from tests.support.faulty_store import begin, go_on, write_all
from tests.support.store_bucket import Bucket
from tests.support.store_folder import Folder
from tests.support.store_rows import contents_of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is in a store that nothing has happened to."""
    path = tmp_path_factory.mktemp("undisturbed") / "v"
    with begin(path) as writer:
        go_on(writer)
    return contents_of(Folder(path))


@pytest.fixture(scope="module")
def undisturbed_bucket(object_store):
    """The same of a store in a bucket."""
    place = Bucket.new(object_store)
    write_all(begin(place.path))
    return contents_of(place)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk
