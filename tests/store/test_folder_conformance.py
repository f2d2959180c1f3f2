"""A local folder is a storage as any: it passes the suites."""

import pytest

from tests.support.store_damage_suite import DamageSuite
from tests.support.store_flip_suite import FlipSuite
from tests.support.store_folder import Folder
from tests.support.store_suite import StoreSuite


@pytest.fixture(scope="module")
def new_place(tmp_path_factory):
    return lambda: Folder(tmp_path_factory.mktemp("place") / "v.zarr")


class TestFolder(StoreSuite):
    """A store in a local folder behaves like every store."""


class TestDamagedFolder(DamageSuite):
    """Damage to a local folder is reported."""


@pytest.mark.slow
class TestFlippedFolder(FlipSuite):
    """No bit that flips in a local folder is silent."""
