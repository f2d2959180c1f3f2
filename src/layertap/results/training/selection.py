"""What is trained on: which values, labels, sample weights and rows of a store."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import address, tree
from layertap.core.plan import Plan
from layertap.errors import DataError, DataTypeError, OptionError
from layertap.results.joined_array import JoinedArray
from layertap.results.training.row_order import Rows
from layertap.store import LazyArray

if TYPE_CHECKING:
    from layertap.results.saved import Saved

Globs = str | Sequence[str] | None


def values(plan: Plan, before: Globs, outputs: Globs) -> list[str]:
    """Returns the addresses of chosen values, sorted, as Keras flattens dictionaries.

    Args:
        plan: The plan of the store.
        before: Globs over the paths of joins, whose branches are taken.
        outputs: Globs over the paths of operations, whose outputs are taken. With
            neither, all branches are; where there are none, all outputs.

    Raises:
        AddressError: If a glob matches nothing.
    """
    of_joins, of_outputs = address.patterns(before), address.patterns(outputs)
    if not of_joins and not of_outputs:
        of_joins, of_outputs = (["*"], []) if plan.joins else ([], ["*"])
    found: set[str] = set()
    if of_joins:
        paths = [join.path for join in plan.joins]
        for path in address.match(of_joins, paths, what="join"):
            found.update(branch.address for branch in plan.join(path).branches)
        found.update(plan.skips)
    if of_outputs:
        made_by = {o.address: address.parse(o.address)[0] for o in plan.outputs}
        paths = list(dict.fromkeys(made_by.values()))
        chosen = set(address.match(of_outputs, paths, what="output"))
        found.update(name for name, path in made_by.items() if path in chosen)
    return sorted(found)


def joined_values(plan: Plan, names: Sequence[str]) -> tuple[list[str], int]:
    """Returns the branches of the only join among values, and the axis it joins.

    Args:
        plan: The plan of the store.
        names: The addresses of the values.

    Raises:
        OptionError: If they are not those of one concatenation.
    """
    for join in plan.joins:
        branches = [branch.address for branch in join.branches]
        alike = (
            join.kind == "concatenate" and join.whole and set(branches) == set(names)
        )
        if alike and join.axis:
            return branches, join.axis
    raise OptionError(
        f"`joined=True` takes the branches of one concatenation; found "
        f"{', '.join(names)}. Choose a join by `before=`."
    )


def labels_and_weights(
    saved: "Saved", labels: Any, sample_weight: Any
) -> tuple[Any, Any]:
    """Returns labels and sample weights as structures of arrays, or None.

    Args:
        saved: The store.
        labels: True for those of the store, if it has any; False for none; or others,
            with one for each row of the store.
        sample_weight: Likewise.

    Raises:
        DataError: If there is not one for each row, or weights without labels.
        DataTypeError: If they are no numbers.
    """
    found, weights = _tuples(saved.labels), _tuples(saved.sample_weight)
    if labels is not True:
        found = _given("labels", labels, saved.rows)
    if sample_weight is not True:
        weights = _given("sample_weight", sample_weight, saved.rows)
        if found is None and weights is not None:
            raise DataError(
                f"There is `sample_weight`, but {saved.path} has no labels that it "
                "could weigh. Pass `labels=`, too."
            )
    return found, None if found is None else weights


def _given(what: str, structure: Any, rows: int) -> Any:
    if structure is False or structure is None:
        return None

    def array(leaf: Any) -> Any:
        found = leaf if isinstance(leaf, LazyArray | JoinedArray) else np.asarray(leaf)
        if found.dtype.kind in "OSUV" and found.dtype.name != "bfloat16":
            raise DataTypeError(
                f"`{what}=` holds {found.dtype}; expected numbers, such as those of "
                "classes."
            )
        if not found.ndim or len(found) != rows:
            raise DataError(
                f"`{what}=` has shape {found.shape}; expected one for each of the "
                f"{rows} rows of the store, also where `rows=` chooses some of them. "
                "Pass an array, or a dictionary or list of arrays."
            )
        return found

    return tree.mapped(array, _tuples(structure))


def _tuples(structure: Any) -> Any:
    """Returns a structure with tuples for lists, which TensorFlow makes tensors of."""
    if isinstance(structure, Mapping):
        return {key: _tuples(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return tuple(map(_tuples, structure))
    return structure


def rows_of(rows: Any, count: int) -> Rows:
    """Returns which rows of a store are meant.

    Args:
        rows: None for all, a range, a slice, or numbers or booleans.
        count: How many rows there are.

    Raises:
        OptionError: If there are none, or not such ones.
    """
    if rows is None:
        found: Rows = range(count)
    elif isinstance(rows, slice):
        found = range(count)[rows]
    elif isinstance(rows, range):
        found = rows
    else:
        found = _numbers(rows, count)
    if not len(found):
        raise OptionError(
            f"No row is left to train on: the store has {count}, and `rows=` chooses "
            "none of them."
        )
    ends = (found[0], found[-1]) if isinstance(found, range) else found
    for outside in (min(ends), max(ends)):
        if not 0 <= outside < count:
            raise OptionError(
                f"`rows=` holds {outside}; the store has rows 0 to {count - 1}."
            )
    return found


def _numbers(rows: Any, count: int) -> NDArray[np.intp]:
    array = np.asarray(rows)
    if array.ndim == 1 and array.dtype == bool and len(array) == count:
        return np.flatnonzero(array)
    if array.ndim == 1 and (array.dtype.kind in "iu" or not len(array)):
        return array.astype(np.intp)
    raise OptionError(
        f"`rows=` is a range, a slice, a list of row numbers, or one boolean for each "
        f"of the {count} rows; found {array.dtype} of shape {array.shape}."
    )
