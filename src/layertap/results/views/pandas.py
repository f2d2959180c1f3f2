"""Saved values as a data frame of pandas."""

from typing import Any

import numpy as np

from layertap.core import tree
from layertap.core.address import IDS
from layertap.core.optional import require
from layertap.results.saved_rows import SavedRows
from layertap.results.views.columns import Array, Column, value_columns


def frame(saved: SavedRows, address: str | None) -> Any:
    """Returns all rows in memory; see `Saved.to_pandas`."""
    pandas = require("pandas", "pandas", "`Saved.to_pandas`")
    rows: Any = pandas.RangeIndex(saved.rows, name="row")
    if saved.ids is not None:
        rows = pandas.Index(saved.ids, name=IDS)
    names = [address] if address is not None else list(saved.plan.known)
    parts = {
        column.name: pandas.DataFrame(_flat(column.read(slice(None))), index=rows)
        for column in map(Column.widened, value_columns(saved, names))
    }
    if address is not None:
        return parts[address]
    for array in tree.leaves([saved.labels, saved.sample_weight]):
        # A name of its own: `frame["labels"]` is a column.
        flat = _flat(array[:])
        numbers = range(flat.shape[1]) if array.ndim > 1 else [""]
        parts[array.path] = pandas.DataFrame(flat, index=rows, columns=numbers)
    return pandas.concat(parts, axis=1)


def _flat(array: Array) -> Array:
    return array.reshape(len(array), int(np.prod(array.shape[1:])))
