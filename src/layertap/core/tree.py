"""Structures of arrays, such as labels: dictionaries and lists, without Keras."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from layertap.core import address


def mapped(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Returns a structure with a function of each leaf; None stays None.

    The function also receives the same leaf of each of the `others`.
    """
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {
            key: mapped(function, value, *(other[key] for other in others))
            for key, value in first.items()
        }
    if isinstance(first, list | tuple):
        members = zip(first, *others, strict=True)
        results = [mapped(function, *same) for same in members]
        return results if isinstance(first, list) else tuple(results)
    return function(first, *others)


def leaves(structure: Any) -> Iterator[Any]:
    """Yields the leaves of a structure, in their order."""
    if isinstance(structure, Mapping):
        for member in structure.values():
            yield from leaves(member)
    elif isinstance(structure, list | tuple):
        for member in structure:
            yield from leaves(member)
    elif structure is not None:
        yield structure


def paths(structure: Any, path: str) -> Any:
    """Returns a structure with the paths of arrays in place of its leaves.

    Example:
    >>> paths({"class": 0, "box": [1, 2]}, "labels")
    {'class': 'labels/class', 'box': ['labels/box/0', 'labels/box/1']}
    """
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {
            str(key): paths(value, f"{path}/{address.component(str(key))}")
            for key, value in structure.items()
        }
    if isinstance(structure, list | tuple):
        return [paths(value, f"{path}/{i}") for i, value in enumerate(structure)]
    return path
