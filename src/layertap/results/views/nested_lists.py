"""Arrays as nested lists in a JSON file: the form that keract has."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layertap.core import tree
from layertap.errors import DataError

# An array, or a list of arrays.
Arrays = Any


def write(arrays: Mapping[Any, Arrays], path: str | os.PathLike[str]) -> None:
    """Writes arrays by key."""
    lists = tree.mapped(lambda part: np.asarray(part).tolist(), arrays)
    Path(path).write_text(json.dumps(lists), "utf-8")


def read(path: str | os.PathLike[str]) -> dict[str, Arrays]:
    """Reads arrays by key; numbers that float32 holds exactly become float32."""
    lists = json.loads(Path(path).read_text("utf-8"))
    if not isinstance(lists, dict):
        raise DataError(
            f"{os.fspath(path)} has no arrays. Expected nested lists by key. Received "
            f"{type(lists).__name__}."
        )
    return {key: _array(value) for key, value in lists.items()}


def _array(lists: Any) -> Arrays:
    """Returns nested lists as an array, or as several if their shapes differ."""
    try:
        array = np.array(lists)
    except ValueError:
        return [None if part is None else _array(part) for part in lists]
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array
