"""The shards that a reader holds open, of all its arrays: those used last."""

from contextlib import suppress
from typing import Any

from layertap.store.format.shard import Shard

# Each has a file open, of which a process may have 1,024.
_MOST = 64
# Of all together, what they have in memory because it is compressed.
_MOST_BYTES = 2**29

Key = tuple[str, int]


class ShardCache:
    """Shards, by array and block. What was not used for longest is let go.

    Threads may use it at the same time. There is no lock, which a process that is
    forked meanwhile would never see opened: each step is one of a dictionary, and at
    worst a shard is opened again.

    Args:
        arrays: How many arrays there are; of each, two shards are held at least.
    """

    def __init__(self, arrays: int) -> None:
        self.least = 2 * arrays
        self._most = max(_MOST, self.least)
        self._shards: dict[Key, Shard] = {}

    def use(self, key: Key) -> Shard | None:
        """Returns a shard that is held, as the one that was used last."""
        shard = self._shards.pop(key, None)
        if shard is not None:
            self._shards[key] = shard
        return shard

    def hold(self, key: Key, shard: Shard) -> None:
        """Holds a shard."""
        self._shards[key] = shard
        while len(self._shards) > self.least and self._too_many():
            # Another thread may change it in this moment.
            with suppress(RuntimeError, StopIteration):
                self._shards.pop(next(iter(self._shards)), None)

    def _too_many(self) -> bool:
        if len(self._shards) > self._most:
            return True
        with suppress(RuntimeError):
            return sum(one.in_memory for one in self._shards.values()) > _MOST_BYTES
        return False

    def clear(self) -> None:
        """Lets go of all."""
        self._shards.clear()

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens files of its own.
        return {**self.__dict__, "_shards": {}}
