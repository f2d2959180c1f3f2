"""Structures of arrays, as of labels: dictionaries and lists, without Keras."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from layertap.core import address


def mapped(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Returns a structure with a function of each leaf in its place.

    Args:
        function: Takes a leaf, and the same one of each of the `others`.
        first: A leaf, or a dictionary or list of structures; None stays None.
        others: Further structures of the same form.
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
        found = [mapped(function, *same) for same in members]
        return found if isinstance(first, list) else tuple(found)
    return function(first, *others)


def leaves(structure: Any) -> Iterator[Any]:
    """Yields the leaves of a structure, in the order in which they stand there."""
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

    Args:
        structure: An array, a list or a dictionary of them, or None.
        path: The path of the whole.

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
