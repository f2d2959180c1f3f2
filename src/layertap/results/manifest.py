"""The manifest of saved values: what the attributes of their store say, checked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layertap.core import text, tree
from layertap.core.address import DIGESTS, IDS, effect
from layertap.core.plan import Plan, Recipe
from layertap.core.values import auxiliary_arrays, auxiliary_dtype
from layertap.errors import StoreCorruptError
from layertap.results.joined_array import JoinedArray, ValueArray
from layertap.store.reading.array import LazyArray
from layertap.store.reading.reader import Reader

# A key of a complete store only.
STATISTICS = "statistics"
# Facts about the data. Of these, only the names of classes make a run another one.
NOTES = "notes"
# How many files the data were read from, and a digest of their versions.
FILES = "files"
_NOTED = {"class_names": list, "skipped": dict, "passed_over": dict, "not_used": list}

# What reading a damaged manifest may raise.
_DAMAGE = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError),
    *(OverflowError, RecursionError),
)


@contextmanager
def report_damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the errors of a damaged manifest into a `StoreCorruptError`."""
    try:
        yield
    except _DAMAGE as error:
        problem = f"{type(error).__name__}: {text.printable(error)[:300]}"
        raise StoreCorruptError(
            f"The manifest of {os.fspath(path)} is damaged ({problem}). Restore the "
            "store, or delete it and save again."
        ) from error


def check_arrays(plan: Plan, reader: Reader) -> None:
    """Checks that the store has the arrays of a plan, with their shapes and dtypes."""
    if not plan.stored:
        raise ValueError("the plan stores no value")
    for derived in plan.derived:
        if effect(derived.value, derived.kind) != derived.address:
            raise ValueError(f"{derived.address} is not a gradient or an attribution")
    for value in plan.stored:
        _check_array(reader.array(value.address), value.shape[1:], value.dtype)
    for name, axes in plan.padded.items():
        ndim = reader.array(name).ndim
        if not axes or not all(1 <= axis < ndim for axis in axes):
            raise ValueError(f"{name} of {ndim} axes can't be padded along axes {axes}")
    for name, columns in auxiliary_arrays(plan).items():
        _check_array(reader.array(name), (len(columns),), auxiliary_dtype(name))
    _check_array(reader.array(DIGESTS), (), "uint64")


def _check_array(array: LazyArray, shape: tuple[int | None, ...], dtype: str) -> None:
    if (array.shape[1:], array.dtype.name) != (shape, dtype):
        raise ValueError(f"{array!r} should have rows of shape {shape} and {dtype}")


def check_ids(kind: str | None, reader: Reader) -> None:
    """Checks that the ids are `"number"` or `"text"`, or None for a store without."""
    if kind not in (None, "number", "text"):
        raise ValueError(f"ids are numbers or texts, not {kind!r}")
    if kind is not None:
        ids = reader.array(IDS)
        if ids.ndim != 1 + (kind == "text") or ids.dtype.kind not in "iu":
            raise ValueError(f"{ids!r} can't hold ids of kind {kind!r}")


def read_notes(reader: Reader) -> dict[str, Any]:
    """Returns lists of texts, and dictionaries with such keys."""
    stored = reader.attributes.get(NOTES, {})
    notes = {name: kind(stored.get(name, ())) for name, kind in _NOTED.items()}
    for name, note in notes.items():
        if not all(isinstance(text, str) for text in note):
            raise TypeError(f"{name} are not texts")
    return notes


def resolve(paths: Any, reader: Reader) -> Any:
    """Returns a structure of paths as the same structure of arrays."""
    for path in tree.leaves(paths):
        if not isinstance(path, str):
            raise TypeError(f"{path!r} should be the path of an array")
    return tree.mapped(reader.array, paths)


def value_arrays(plan: Plan, reader: Reader) -> dict[str, ValueArray]:
    """Returns the arrays of all values; those that are not stored are joined."""
    arrays: dict[str, ValueArray] = {}

    def build(name: str, within: tuple[str, ...]) -> ValueArray:
        if name in arrays:
            return arrays[name]
        recipe = plan.recipes.get(name)
        if name in within or recipe == Recipe(()):
            raise ValueError(f"{name} is made of itself, or of nothing")
        if name not in plan.known:
            raise ValueError(f"the plan has no value {name}")
        if recipe is None:
            array: ValueArray = reader.array(name)
        else:
            parts = [build(part, (*within, name)) for part in recipe.addresses]
            array = parts[0] if len(parts) == 1 else JoinedArray(parts, recipe.axis)
        arrays[name] = array
        return array

    for value in [*plan.values, *plan.derived]:
        shape = build(value.address, ()).shape[1:]
        if shape != value.shape[1:]:
            raise ValueError(
                f"{value.address} has rows of shape {shape}, not {value.shape[1:]}"
            )
    return arrays
