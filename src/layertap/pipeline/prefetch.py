"""Begins batches ahead of time, so that the backend is never idle."""

import time
from collections import deque
from collections.abc import Callable, Iterator

from layertap.tracing.forward_pass import Arrays

# How many batches are begun at once, if each takes less than so many seconds.
_MANY, _NO_TIME = 16, 0.001


def prefetch(batches: Iterator[Callable[[], Arrays]]) -> Iterator[Arrays]:
    """Yields the arrays of begun batches, each after later batches are begun.

    The backend computes one batch while the arrays of another are checked and written.
    Many short batches are begun at once, since waking up the backend's threads takes
    longer than they do. If a batch can't be begun, earlier batches come first.
    """
    waiting: deque[Callable[[], Arrays]] = deque()
    most, since = 1, time.perf_counter()
    while True:
        try:
            following = next(batches, None)
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
