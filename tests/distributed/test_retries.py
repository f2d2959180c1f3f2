"""Attempts at blocks are counted, and limited."""

import pytest

from layertap.distributed.retries import MAX_ATTEMPTS, START, Attempts, check_attempts
from layertap.errors import LayertapError

pytestmark = pytest.mark.ray


def test_a_block_may_die_a_few_times():
    attempts = Attempts()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        times = attempts.begin(6)
        assert times == attempt
        check_attempts(times - 1, "Block 6 was begun")
    words = r"Block 6 was begun 5 times, and died each time"
    with pytest.raises(LayertapError, match=words):
        check_attempts(attempts.begin(6) - 1, "Block 6 was begun")


def test_a_block_that_ends_is_forgotten():
    attempts = Attempts()
    for _ in range(20):
        assert attempts.begin(6) == 1
        attempts.end(6)


def test_all_workers_may_start_at_once_but_not_die_for_ever():
    attempts, workers = Attempts(), 4
    for _ in range(workers + MAX_ATTEMPTS - 1):
        check_attempts(attempts.begin(START) - workers, "Workers were started")
    with pytest.raises(LayertapError, match="Workers were started 5 times"):
        check_attempts(attempts.begin(START) - workers, "Workers were started")
    # A worker that ends a block has started.
    attempts.begin(0)
    attempts.end(0)
    assert attempts.begin(START) == 1
