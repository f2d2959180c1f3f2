"""What tests of a store share; and assertions of the suites that say what differs."""

import pytest

pytest.register_assert_rewrite(
    "faulty_store", "store_suite", "store_damage_suite", "store_flip_suite"
)

from faults import small_disk  # noqa: E402
from faulty_store import begin, go_on  # noqa: E402
from store_folder import Folder  # noqa: E402
from store_suite import contents_of  # noqa: E402


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is in a store that nothing has happened to."""
    path = tmp_path_factory.mktemp("undisturbed") / "v"
    with begin(path) as writer:
        go_on(writer)
    return contents_of(Folder(path))


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk
