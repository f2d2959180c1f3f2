"""One batch of inputs, made into what the model takes: names, structure, types."""

import sys
from collections.abc import Mapping
from typing import Any

import keras
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from layertap.core.address import suggest
from layertap.errors import DataError, DataTypeError


def arrange(x: Any, specs: Any, row: int) -> Any:
    """Returns inputs in the structure, the dtypes and the ranks that the model takes.

    Args:
        x: One array, or a list or dictionary of them, as `model.predict` takes it.
        specs: The model's structure of `InputSpec`; None for a model without a graph,
            which gets `x` as it is, floats in Keras' default dtype.
        row: The number of the first row, for errors.

    Raises:
        DataError: If a name, the number of inputs, a rank or a size does not fit.
        DataTypeError: If these are no numbers.
    """
    if specs is None:
        return keras.tree.map_structure(
            lambda leaf: _numbers(leaf, "the input", row), x
        )
    wanted = keras.tree.flatten(specs)
    flat = keras.tree.flatten(matched(x, specs))
    if len(flat) != len(wanted):
        names = ", ".join(spec.name for spec in wanted)
        raise DataError(
            f"The model takes {len(wanted)} inputs ({names}); the data {len(flat)}."
        )
    arrays = [_fit(leaf, spec, row) for leaf, spec in zip(flat, wanted, strict=True)]
    return keras.tree.pack_sequence_as(specs, arrays)


def matched(x: Any, specs: Any) -> Any:
    """Returns inputs such that, flattened, they are in the order of the specs.

    Raises:
        DataError: If one that the model takes has a name that is not there.
    """
    if isinstance(x, Mapping):
        if isinstance(specs, Mapping):
            return {key: matched(_named(x, key), specs[key]) for key in specs}
        return keras.tree.map_structure(lambda spec: _named(x, spec.name), specs)
    if isinstance(specs, Mapping) and list(specs) != sorted(specs):
        # Keras, too, refuses: is it the order of the model, or that of flattening?
        raise DataError(
            f"The model takes a dictionary of {', '.join(map(repr, specs))}; which is "
            f"which can't be told from {type(x).__name__}. Pass a dictionary."
        )
    lists = isinstance(x, list | tuple) and isinstance(specs, list | tuple)
    if lists and len(x) == len(specs):
        return [matched(*pair) for pair in zip(x, specs, strict=True)]
    return x


def _named(x: Mapping[Any, Any], name: str) -> Any:
    if name in x:
        return x[name]
    raise DataError(
        f"The model's input {name!r} is not in the data, which has "
        f"{', '.join(map(repr, x))}. "
        + suggest(name, map(str, x), what="name in the data")
    )


def rows_of(structure: Any, what: str, row: int) -> int:
    """Returns the number of rows that all arrays of a structure have.

    Raises:
        DataError: If they have different numbers of rows.
    """
    counts = {
        leaf.shape[0] if leaf.shape else None for leaf in keras.tree.flatten(structure)
    }
    if len(counts) != 1 or None in counts:
        shapes = ", ".join(str(leaf.shape) for leaf in keras.tree.flatten(structure))
        raise DataError(
            f"From row {row} on, the {what} disagree in their number of rows: {shapes}."
        )
    (count,) = counts
    return int(count or 0)


def is_array(leaf: Any) -> bool:
    """Whether something is an array, or can be made one without reading a file."""
    return hasattr(leaf, "__array__") or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )


def check_dense(leaf: Any) -> None:
    """Raises if a tensor is ragged or sparse.

    Raises:
        DataTypeError: If it is.
    """
    kind, module = type(leaf).__name__, type(leaf).__module__
    torch: Any = sys.modules.get("torch")
    on_torch = torch is not None and isinstance(leaf, torch.Tensor)
    if (
        "Ragged" in kind
        or "Sparse" in kind
        or module.startswith(("scipy.sparse", "jax.experimental.sparse"))
        or (on_torch and leaf.layout is not torch.strided)
    ):
        kind = f"{leaf.layout} tensor" if on_torch else kind
        raise DataTypeError(
            f"The data hold a {kind}; make it dense, padded to one size."
        )


def array_of(leaf: Any) -> NDArray[Any]:
    """Returns a batch's leaf as a NumPy array.

    Raises:
        DataTypeError: If it is ragged, sparse, or no array.
    """
    if isinstance(leaf, np.ndarray):
        return leaf
    check_dense(leaf)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().cpu()
        if leaf.dtype == torch.bfloat16:
            return np.asarray(leaf.float().numpy().astype(ml_dtypes.bfloat16))
        return np.asarray(leaf.numpy())
    if not is_array(leaf) and not isinstance(leaf, int | float | bool | list):
        raise DataTypeError(
            f"The data hold a {type(leaf).__name__}, which is no array."
        )
    return np.asarray(leaf)


def _numbers(leaf: Any, name: str, row: int, dtype: str | None = None) -> NDArray[Any]:
    array = array_of(leaf)
    # NumPy would drop an imaginary part.
    imaginary = array.dtype.kind == "c" and not (dtype or "").startswith("complex")
    if array.dtype.kind in "OSUMm" or imaginary:
        raise DataTypeError(
            f"{name} holds {array.dtype} from row {row} on; the model takes "
            f"{dtype or 'real numbers'}. Encode it first."
        )
    if dtype is None:
        floating = keras.backend.is_float_dtype(array.dtype.name)
        dtype = keras.config.floatx() if floating else array.dtype.name
    return _whole(array, np.dtype(dtype), name, row)


def _whole(
    array: NDArray[Any], dtype: np.dtype[Any], name: str, row: int
) -> NDArray[Any]:
    """Returns an array in another dtype; into integers, only what is one of those."""
    if dtype.kind not in "iu" or np.can_cast(array.dtype, dtype):
        return array.astype(dtype, copy=False)
    with np.errstate(invalid="ignore"):
        found = array.astype(dtype)
    changed = found != array
    if changed.any():
        raise DataError(
            f"{name} holds {array[changed][0]} from row {row} on, which the model's "
            f"{dtype} can't hold. Make the data {dtype}."
        )
    return found


def _fit(leaf: Any, spec: Any, row: int) -> NDArray[Any]:
    array = _numbers(leaf, f"Input {spec.name!r}", row, spec.dtype)
    rank = len(spec.shape)
    # Keras lets a last axis of size 1 come and go.
    if array.ndim == rank - 1 and spec.shape[-1] == 1:
        array = array[..., None]
    elif array.ndim == rank + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != rank or any(
        n is not None and n != size
        for n, size in zip(spec.shape[1:], array.shape[1:], strict=True)
    ):
        sizes = ["rows", *("?" if n is None else str(n) for n in spec.shape[1:])]
        raise DataError(
            f"Input {spec.name!r} takes shape ({', '.join(sizes)}); found "
            f"{array.shape} from row {row} on."
        )
    return array
