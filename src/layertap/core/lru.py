"""A cache of the values that were used last."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class LRU(Generic[Key, Value]):
    """Caches values, and drops those unused for longest. A copy of it is empty.

    Threads may share one. It has no lock, because a process that is forked while one
    is held could never release it: at worst, a value is made again.

    Args:
        most: The number of values.
        least: The number of values that are cached whatever their size.
        most_bytes: The bytes of all values, where `size` is passed.
        size: Returns the bytes of a value. It has to be picklable.
    """

    def __init__(
        self,
        most: int,
        *,
        least: int = 1,
        most_bytes: int = 0,
        size: Callable[[Value], int] | None = None,
    ) -> None:
        self._most, self._least = max(most, least), least
        self._most_bytes, self._size = most_bytes, size
        self._values: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Returns a cached value, which then is the one used last."""
        value = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        return value

    def put(self, key: Key, value: Value) -> None:
        """Caches a value."""
        self._values[key] = value
        while len(self._values) > self._least and self._is_full():
            # Another thread may change the dictionary at this moment.
            with suppress(RuntimeError, StopIteration):
                self._values.pop(next(iter(self._values)), None)

    def _is_full(self) -> bool:
        if self._size is None or len(self._values) > self._most:
            return len(self._values) > self._most
        with suppress(RuntimeError):
            return sum(map(self._size, self._values.values())) > self._most_bytes
        return False

    def clear(self) -> None:
        """Drops all values."""
        self._values.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": {}}
