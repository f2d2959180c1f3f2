"""A bucket is a storage as any: it passes the suites, by TensorStore's driver of S3.

Each read and write is a request over HTTP, so fewer bits are flipped than in a folder.
"""

import pytest

from store_bucket import Bucket
from store_damage_suite import DamageSuite
from store_flip_suite import FlipSuite
from store_suite import StoreSuite


@pytest.fixture(scope="module")
def new_place(object_store):
    return lambda: Bucket.new(object_store)


class TestBucket(StoreSuite):
    """A store in a bucket does what a store does."""


class TestDamagedBucket(DamageSuite):
    """Damage to objects is told."""

    every = 17


class TestFlippedBucket(FlipSuite):
    """No bit that flips in a bucket is silent."""

    every = 211
