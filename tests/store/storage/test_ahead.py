"""Work in threads: results in order, not too far ahead, and dropped after an error."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from layertap.store.storage.ahead import map_ahead


def test_results_come_in_order():
    third = threading.Event()

    def last_comes_first(n):
        if n == 2:
            third.set()
        assert third.wait(10)
        return n * n

    results = map_ahead(last_comes_first, range(20), threads=4, most=6)
    assert list(results) == [n * n for n in range(20)]


def test_no_more_than_so_many_are_begun_ahead():
    taken = []

    def items():
        for n in range(10):
            taken.append(n)
            yield n

    results = map_ahead(str, items(), threads=2, most=3)
    for n in range(6):
        assert next(results) == str(n)
        assert len(taken) == n + 1 + 3
    results.close()


def test_after_an_error_those_that_wait_are_dropped(monkeypatch):
    begun, go_on = [], threading.Event()
    original = ThreadPoolExecutor.shutdown

    def shutdown(pool, **options):
        original(pool, wait=False, **options)
        # Only now, those that were begun end.
        go_on.set()
        original(pool)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)

    def fail_at_first(n):
        begun.append(n)
        if n == 0:
            raise ValueError("broken")
        go_on.wait(10)

    results = map_ahead(fail_at_first, range(50), threads=2, most=40)
    with pytest.raises(ValueError, match="broken"):
        next(results)
    # The first, and one in each thread.
    assert len(begun) <= 3
