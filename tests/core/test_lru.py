"""A cache of the values that were used last."""

import copy
import pickle
import threading

from layertap.core.lru import LRU


def test_values_unused_for_longest_are_dropped():
    cache = LRU(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    cache.clear()
    assert cache.get("a") is None


def test_values_are_dropped_by_their_bytes_but_for_the_least():
    cache = LRU(10, least=2, most_bytes=9, size=len)
    for key in "abc":
        cache.put(key, b"four")
    assert [cache.get(key) for key in "abc"] == [None, b"four", b"four"]
    for key in "de":
        cache.put(key, bytes(100))
    assert [cache.get(key) for key in "bcde"] == [None, None, bytes(100), bytes(100)]


def test_copies_are_empty():
    cache = LRU(2, size=len, most_bytes=1)
    cache.put("a", b"x")
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert other.get("a") is None
        other.put("a", b"y")
        assert other.get("a") == b"y"
    assert cache.get("a") == b"x"


def test_threads_share_a_cache():
    cache = LRU(3, least=2, most_bytes=10, size=len)
    errors = []

    def work():
        try:
            for number in range(20_000):
                cache.put(number % 7, bytes(number % 5 + 1))
                cache.get((number + 3) % 7)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(cache.get(key) is not None for key in range(7)) <= 3
