"""The inputs of the rows of a page, which have to be those of the store."""

from collections.abc import Iterator
from itertools import chain, islice, permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables, tree
from layertap.core.address import DIGESTS
from layertap.core.optional import require_keras
from layertap.errors import OptionError
from layertap.pages.sample import Rows
from layertap.results.saved import Saved
from layertap.results.training.selection import row_arrays

# The dtypes of models, the likely ones first; None for that of the data.
_OF_FLOATS = ("float32", None, "float16", "bfloat16", "float64")
_OF_OTHERS = (None, "float32", "int32", "int64", "uint8", "float16", "bfloat16")
# The most inputs whose order may differ, and that gain or lose an axis one by one.
_MOST_ORDERED, _MOST_CHANGED = 4, 2


def inputs_of_rows(saved: Saved, inputs: Any, rows: Rows) -> dict[str, NDArray[Any]]:
    """Returns the inputs of some rows by name, or raises unless the model read them."""
    arrays = row_arrays("inputs", inputs, saved.rows)
    chosen = tree.mapped(lambda array: np.asarray(array[rows]), arrays)
    found = list(tree.leaves(chosen))
    row = _differing_row(saved, chosen, rows)
    if row is not None:
        forms = [
            f"{a.dtype} of shape {tables.shape((None, *a.shape[1:]))}" for a in found
        ]
        raise OptionError(
            f"`inputs=` differs from the inputs of {saved.path} in row {row}. "
            "Expected the numbers that the model read, in the order of the rows. "
            f"Received {', '.join(forms) or 'nothing'}. Pass the data of the save."
        )
    return dict(zip(tree.leaves(tree.paths(chosen, "inputs")), found, strict=True))


def _differing_row(saved: Saved, inputs: Any, rows: Rows) -> int | None:
    """Returns the first of some rows whose digest is not that of the store, or None.

    A store does not have the forms of its inputs. So those are tried that a save can
    make of these: one of the rows shows which one it is.
    """
    require_keras()
    # It needs Keras, which other pages do not.
    from layertap.pipeline.fingerprint import inputs_digests

    digests = saved.reader.array(DIGESTS)[rows]
    first = tree.mapped(lambda array: array[:1], inputs)
    for number, form in enumerate(_forms(first)):
        if inputs_digests(form)[0] == digests[0]:
            form = next(islice(_forms(inputs), number, None))
            differing = rows[inputs_digests(form) != digests]
            return int(differing.min()) if len(differing) else None
    return int(rows[0])


def _forms(inputs: Any) -> Iterator[Any]:
    """Yields inputs in the structures, shapes and dtypes that a model may declare."""
    leaves = list(tree.leaves(inputs))
    few = len(leaves) <= _MOST_ORDERED
    orders = permutations(range(len(leaves))) if few else [range(len(leaves))]
    # Of many, those of one number a row become columns, or all stay.
    axes: Any = [[0] * len(leaves), [int(leaf.ndim == 1) for leaf in leaves]]
    if len(leaves) <= _MOST_CHANGED:
        axes = product((0, 1, -1), repeat=len(leaves))
    # None is the structure in which they were passed.
    ways: Any = chain([None], ["alone"] * (len(leaves) == 1), orders)
    ways = product(ways, axes, _OF_OTHERS, _OF_FLOATS)
    for order, changes, other, floating in ways if leaves else ():
        pairs = zip(leaves, changes, strict=True)
        fitted = [_fitted(leaf, change, other, floating) for leaf, change in pairs]
        if order is None:
            remaining = iter(fitted)
            yield tree.mapped(lambda _, left=remaining: next(left), inputs)
        else:
            yield fitted[0] if order == "alone" else tuple(fitted[n] for n in order)


def _fitted(
    array: NDArray[Any], change: int, other: str | None, floating: str | None
) -> NDArray[Any]:
    """Returns an array of another dtype, with one more last axis of size 1 or less."""
    if change > 0:
        array = array[..., None]
    elif change < 0 and array.ndim > 1 and array.shape[-1] == 1:
        array = array[..., 0]
    is_floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    dtype = floating if is_floating else other
    if dtype is None or array.dtype.kind == "c":
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype, copy=False)
