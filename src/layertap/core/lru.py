"""Keeps a few values that were made, for when they are asked for again."""

from contextlib import suppress
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def keep(kept: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keeps a value, and lets go of those that have been kept longest.

    Threads may do so at the same time. There is no lock, which a process that is
    forked meanwhile would never see opened: at worst a value is made again.

    Args:
        kept: What is kept.
        key: The key of the value.
        value: The value.
        most: How many are kept.
    """
    kept[key] = value
    while len(kept) > most:
        # Another thread may change it in this moment.
        with suppress(RuntimeError, StopIteration):
            kept.pop(next(iter(kept)), None)
