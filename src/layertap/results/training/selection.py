"""Selects what to train on: values, labels, sample weights and rows of a store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import address, tree
from layertap.core.plan import Plan
from layertap.errors import DataError, DataTypeError, OptionError
from layertap.results.joined_array import ValueArray
from layertap.results.training.row_order import Rows

Globs = str | Sequence[str] | None


def select_addresses(plan: Plan, before: Globs, outputs: Globs) -> list[str]:
    """Returns the addresses of chosen values, in the order of the plan.

    Without globs, all branches are chosen; where there are none, all outputs.
    """
    of_joins, of_outputs = address.patterns(before), address.patterns(outputs)
    if not of_joins and not of_outputs:
        of_joins, of_outputs = (["*"], []) if plan.joins else ([], ["*"])
    addresses: set[str] = set()
    if of_joins:
        paths = [join.path for join in plan.joins]
        for path in address.match(of_joins, paths, what="join"):
            if any(address.names(pattern, path) for pattern in of_joins):
                plan.check_complete(
                    path, f"Pass a glob, such as '{path}*', for the others."
                )
            addresses.update(plan.join(path).addresses)
        addresses.update(plan.skips)
    if of_outputs:
        made_by = {o.address: o.parts.path for o in plan.outputs}
        paths = list(dict.fromkeys(made_by.values()))
        chosen = set(address.match(of_outputs, paths, what="output"))
        addresses.update(name for name, path in made_by.items() if path in chosen)
    return [name for name in plan.addresses if name in addresses]


def branches_of_join(plan: Plan, names: Sequence[str]) -> tuple[list[str], int]:
    """Returns the branches of the only join among values, and the axis it joins."""
    for join in plan.joins:
        concatenates = join.kind == "concatenate" and join.whole and join.axis
        # Pooled maps have no such axis.
        same_rank = all(len(b.shape) == len(join.shape) for b in join.branches)
        if concatenates and same_rank and set(join.addresses) == set(names):
            return join.addresses, concatenates
    raise OptionError(
        "`joined=True` can't concatenate these values. Expected the branches of one "
        f"concatenation. Received {', '.join(names)}. Choose a join with `before=`."
    )


def select_targets(saved: Any, labels: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Returns labels and sample weights as structures of arrays, or None.

    True chooses those of `saved`, False none; others need an entry for each row.
    """
    y, weights = map(_with_tuples, (saved.labels, saved.sample_weight))
    if labels is not True:
        y = row_arrays("labels", labels, saved.rows)
    if sample_weight is not True:
        weights = row_arrays("sample_weight", sample_weight, saved.rows)
        if y is None and weights is not None:
            raise DataError(
                f"`sample_weight=` has no labels to weigh: {saved.path} has none. "
                "Pass `labels=`, too."
            )
    return y, None if y is None else weights


def values_as_targets(values: Any, labels: Any) -> Any:
    """Returns values as targets, with labels by name as further ones."""
    if isinstance(labels, Mapping) and isinstance(values, Mapping):
        same = [name for name in labels if name in values]
        if same:
            raise OptionError(
                f"`labels=` has {', '.join(same)}, which is a value, too. Expected "
                "other names."
            )
        return {**values, **labels}
    if labels is True or labels is False or labels is None:
        return values
    raise OptionError(
        "`labels=` can't be combined with `inputs=`, whose targets are the values. "
        "Expected a dictionary, such as labels={'answer': y}, for an output of that "
        f"name. Received {type(labels).__name__}."
    )


def row_arrays(option: str, structure: Any, rows: int) -> Any:
    """Returns a structure of arrays with one entry for each row, or None."""
    if structure is False or structure is None:
        return None

    def row_array(leaf: Any) -> Any:
        array = leaf if isinstance(leaf, ValueArray) else np.asarray(leaf)
        if array.dtype.kind in "OSUV" and array.dtype.name != "bfloat16":
            raise DataTypeError(
                f"`{option}=` has an unsupported dtype. Expected numbers, such as "
                f"class numbers. Received {array.dtype}."
            )
        if not array.ndim or len(array) != rows:
            raise DataError(
                f"`{option}=` does not match the store. Expected one entry for each of "
                f"its {rows} rows, also if `rows=` chooses some of them. Received "
                f"shape {array.shape}. Pass an array, or a dictionary or list of "
                "arrays."
            )
        return array

    return tree.mapped(row_array, _with_tuples(structure))


def _with_tuples(structure: Any) -> Any:
    """Replaces lists by tuples: TensorFlow makes tensors of lists."""
    if isinstance(structure, Mapping):
        return {key: _with_tuples(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return tuple(map(_with_tuples, structure))
    return structure


def select_rows(rows: Any, count: int) -> Rows:
    """Returns the chosen rows of `count`: a range, or an array of row numbers."""
    if rows is None or isinstance(rows, slice):
        chosen: Rows = range(count)[rows or slice(None)]
    elif isinstance(rows, range):
        chosen = rows
    else:
        chosen = _row_numbers(rows, count)
    if not len(chosen):
        raise OptionError(
            f"No row is left: `rows=` chooses none of the store's {count}."
        )
    ends = (chosen[0], chosen[-1]) if isinstance(chosen, range) else chosen
    for row in (min(ends), max(ends)):
        if not 0 <= row < count:
            raise OptionError(
                f"`rows=` has a row outside of the store. Expected rows from 0 to "
                f"{count - 1}. Received {row}."
            )
    return chosen


def _row_numbers(rows: Any, count: int) -> NDArray[np.intp]:
    array = np.asarray(rows)
    if array.ndim == 1 and array.dtype == bool and len(array) == count:
        return np.flatnonzero(array)
    if array.ndim == 1 and (array.dtype.kind in "iu" or not len(array)):
        return array.astype(np.intp)
    raise OptionError(
        "`rows=` does not choose rows. Expected a range, a slice, a list of row "
        f"numbers, or one boolean for each of the {count} rows. Received "
        f"{array.dtype} of shape {array.shape}."
    )
