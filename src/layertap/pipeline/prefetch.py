"""Batches that are begun ahead, so that the backend is never idle."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

# So many batches are begun at once, if one takes less than so many seconds.
_MANY, _NO_TIME = 16, 0.001


def ahead(begun: Iterator[Callable[[], Arrays]]) -> Iterator[Arrays]:
    """Yields the arrays of batches, each when later ones were begun.

    While the arrays of one are checked and kept, the backend computes another, where
    it can. Of batches that take no time many are begun at once, for to wake up the
    backend's threads would take longer than they do. If a batch can't be begun, those
    before it are had first.
    """
    waiting: deque[Callable[[], Arrays]] = deque()
    most, since = 1, time.perf_counter()
    while True:
        try:
            following = next(begun, None)
        except BaseException:
            # Ctrl-C too.
            while waiting:
                yield waiting.popleft()()
            raise
        if following is not None:
            waiting.append(following)
            if len(waiting) <= most:
                continue
        least = 0 if following is None else 1
        while len(waiting) > least:
            yield waiting.popleft()()
        if following is None:
            return
        now = time.perf_counter()
        most, since = _MANY if now - since < _NO_TIME * most else 1, now
