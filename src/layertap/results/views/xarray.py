"""Saved values as a data set of xarray, which reads them when it needs them."""

from typing import Any

import numpy as np

from layertap.core import tree
from layertap.core.address import IDS
from layertap.core.optional import require
from layertap.results.saved_rows import SavedRows

xarray: Any = require("xarray", "xarray", "`Saved.to_xarray`")
indexing: Any = require("xarray.core.indexing", "xarray", "`Saved.to_xarray`")
_ROW = "row"


def dataset(saved: SavedRows) -> Any:
    """Returns a lazy data set; see `Saved.to_xarray`."""
    plan = saved.plan
    made_by = {value.address: value.made_by for value in (*plan.values, *plan.derived)}
    # Gradients and attributions have the dimensions of their values.
    owners = {
        effect: name
        for kind in ("gradient", "attribution")
        for name, effect in plan.effects(kind).items()
    }
    variables = {
        name: _variable(saved[name], owners.get(name, name), {"made_by": made_by[name]})
        for name in plan.known
    }
    facts = {"class_names": saved.class_names} if saved.class_names else {}
    coordinates = {
        array.path: _variable(array, array.path, facts)
        for array in tree.leaves([saved.labels, saved.sample_weight])
    }
    if saved.ids is not None:
        coordinates[IDS] = xarray.Variable([_ROW], saved.ids)
    attributes = {
        "model": plan.model,
        "path": saved.path,
        "complete": int(saved.complete),
    }
    return xarray.Dataset(variables, coordinates, attributes)


def _variable(array: Any, owner: str, attributes: dict[str, Any]) -> Any:
    axes = [f"{owner}_{axis}" for axis in range(1, array.ndim)]
    lazy = indexing.LazilyIndexedArray(LazyVariable(array))
    # An assignment reads the array, and changes that copy.
    owned = indexing.CopyOnWriteArray(lazy)
    return xarray.Variable([_ROW, *axes], owned, attributes)


class LazyVariable(xarray.backends.BackendArray):
    """An array of a store as xarray reads it: rows first, then the other axes."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> Any:
        """Reads an orthogonal selection: integers, slices and arrays of integers."""
        rows, *others = key
        read = self._array[rows]
        # From the last axis on, so that an integer moves no other one.
        for place, index in reversed([*enumerate(others, 1)]):
            axis = place - int(isinstance(rows, int | np.integer))
            read = read[(slice(None),) * axis + (index,)]
        return read
