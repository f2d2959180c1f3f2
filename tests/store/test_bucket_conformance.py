"""A bucket is a storage as any: it passes the suites, by TensorStore's driver of S3.

Each read and write is a request over HTTP, so it takes fewer flips, cuts and histories
than a folder does.
"""

import pytest
from hypothesis import given, settings

from tests.support.campaign import share, times
from tests.support.store_bucket import Bucket
from tests.support.store_damage_suite import DamageSuite
from tests.support.store_flip_suite import FlipSuite
from tests.support.store_rows import DTYPES
from tests.support.store_suite import StoreSuite, histories

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def new_place(object_store):
    return lambda: Bucket.new(object_store)


class TestBucket(StoreSuite):
    """A store in a bucket behaves like every store."""

    # What a dtype is does not depend on the storage.
    @pytest.mark.parametrize("compression", [None, "zstd"])
    @pytest.mark.parametrize("dtype", share(6, DTYPES))
    def test_values_come_back_bit_for_bit(self, path, dtype, compression):
        super().test_values_come_back_bit_for_bit(path, dtype, compression)

    @pytest.mark.parametrize("compression", [None, "zstd"])
    @pytest.mark.parametrize("dtype", share(6, [n for n in DTYPES if n != "bfloat16"]))
    def test_zarr_python_reads_the_same(self, place, path, dtype, compression):
        super().test_zarr_python_reads_the_same(place, path, dtype, compression)

    @pytest.mark.campaign(alone=True)
    def test_readers_at_any_time_see_whole_rows(self, path):
        super().test_readers_at_any_time_see_whole_rows(path)

    @pytest.mark.campaign
    @settings(max_examples=times(3, 5))
    @given(history=histories)
    def test_any_history_ends_in_the_same_store(self, new_place, history):
        self.check_history(new_place, *history)


class TestDamagedBucket(DamageSuite):
    """Damage to objects is reported."""

    every = 17


@pytest.mark.campaign(alone=True)
class TestFlippedBucket(FlipSuite):
    """No bit that flips in a bucket is silent."""

    every = 51
