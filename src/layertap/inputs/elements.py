"""One element of data: which of it are inputs, labels, weights; what has its rows."""

import sys
from collections.abc import Mapping
from typing import Any

import keras

from layertap.errors import DataError
from layertap.inputs.convert import array_of, check_dense, is_array


def unpack(element: Any, specs: Any) -> tuple[Any, Any, Any]:
    """Splits `(x, y, sample_weight)`, as far as it is that."""
    if not isinstance(element, tuple):
        return element, None, None
    count = 0 if specs is None else len(keras.tree.flatten(specs))
    plain = all(is_array(member) for member in element)
    if plain and len(element) == count >= 2:
        return list(element), None, None
    if not 1 <= len(element) <= 3:
        raise DataError(
            f"A tuple is (x,), (x, y) or (x, y, sample_weight); found one of "
            f"{len(element)} members. Several inputs are a list or a dictionary."
        )
    x, y, weight = (*element, None, None)[:3]
    return x, y, weight


def taken(x: Any, specs: Any) -> Any:
    """Leaves out of a dictionary what the model does not take."""
    if not isinstance(x, Mapping) or specs is None:
        return x
    if isinstance(specs, Mapping):
        names = set(specs)
    else:
        names = {spec.name for spec in keras.tree.flatten(specs)}
    # Where a name is missing, the error to come tells those that are there.
    return {name: x[name] for name in names} if names <= set(x) else x


def count(element: Any, specs: Any) -> int:
    """Returns how many rows an element of a stream has, by its inputs."""
    x, _, _ = unpack(element, specs)
    for leaf in keras.tree.flatten(taken(x, specs)):
        shape: Any = getattr(leaf, "shape", ())
        if len(shape) and shape[0] is not None:
            return int(shape[0])
    # Not an array with rows: `arrange` says what is wrong with it.
    return 1


def column(leaf: Any) -> Any:
    """Returns inputs as they are, a Series of pandas as a column, as Keras does."""
    series = hasattr(leaf, "iloc") and leaf.ndim == 1
    return array_of(leaf)[:, None] if series else leaf


def sliceable(leaf: Any) -> Any:
    """Returns an array that is sliced by rows; a table of pandas slices by names."""
    if leaf is None:
        return None
    check_dense(leaf)
    jax = sys.modules.get("jax")
    if (
        hasattr(leaf, "iloc")
        or not hasattr(leaf, "shape")
        # As in Keras: NumPy slices faster than JAX, and shares memory on a CPU.
        or (jax is not None and isinstance(leaf, jax.Array))
    ):
        leaf = array_of(leaf)
    if not leaf.shape:
        raise DataError(
            "Data have rows: an array with at least one axis; found a scalar."
        )
    return leaf


def leaf_name(what: str, path: tuple[Any, ...]) -> str:
    """Returns what to call a leaf of a structure, by its path."""
    return what + "".join(f"[{key!r}]" for key in path)
