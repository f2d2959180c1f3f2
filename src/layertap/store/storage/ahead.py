"""Does work in threads, some steps ahead, and yields the results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int | None = None,
    most: int,
) -> Generator[Result, None, None]:
    """Yields a function of each item in order, computed for at most so many others.

    After an error, or where nobody needs the rest, those that wait are dropped.
    """
    pool = ThreadPoolExecutor(threads, "layertap-ahead")
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
