"""A bucket is a storage as any: it passes the suites, by TensorStore's driver of S3.

Each read and write is a request over HTTP, so it takes fewer flips, cuts and histories
than a folder does.
"""

import pytest
from hypothesis import given, settings

from tests.support.campaign import times
from tests.support.store_bucket import Bucket
from tests.support.store_damage_suite import DamageSuite
from tests.support.store_flip_suite import FlipSuite
from tests.support.store_suite import StoreSuite, histories

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def new_place(object_store):
    return lambda: Bucket.new(object_store)


class TestBucket(StoreSuite):
    """A store in a bucket behaves like every store."""

    @pytest.mark.campaign
    @settings(max_examples=times(3, 10))
    @given(history=histories)
    def test_any_history_ends_in_the_same_store(self, new_place, history):
        self.check_history(new_place, *history)


class TestDamagedBucket(DamageSuite):
    """Damage to objects is reported."""

    every = 17


class TestFlippedBucket(FlipSuite):
    """No bit that flips in a bucket is silent."""

    every = times(151, 11)
