"""Values by address, in memory: what a capture gives, or a batch of a store."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import address, tables, tree
from layertap.core.plan import Plan
from layertap.errors import AddressError, OptionError

Array = NDArray[Any]

# How many numbers of each row became infinite when they were narrowed: one column for
# each value in `Plan.narrowed`.
OVERFLOWED = "overflowed"
# The true sizes of values that were padded: one column for each axis in `Plan.padded`.
LENGTHS = "lengths"


class Values(Mapping[str, Array]):
    """Values in memory, by address: a read-only mapping of NumPy arrays.

    Aliases are not held twice: one that is the same tensor gives the same array, one
    that is a join of others is concatenated when it is asked for.

    Args:
        plan: The plan of the values.
        arrays: The stored ones, by address.
        labels: The labels that came with the data: an array, a structure of arrays, or
            None.
        ids: The ids of the rows, or None.
        sample_weight: The weights of the samples, as `labels`.
        beside: What is stored beside the values: `overflowed` and `lengths`.
    """

    def __init__(
        self,
        plan: Plan,
        arrays: Mapping[str, Array],
        labels: Any = None,
        ids: Array | None = None,
        sample_weight: Any = None,
        beside: Mapping[str, Array] | None = None,
    ) -> None:
        self.plan = plan
        self.labels = labels
        self.ids = ids
        self.sample_weight = sample_weight
        self._arrays = arrays
        self._beside = beside or {}

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self._arrays.values())))

    @property
    def overflowed(self) -> dict[str, int]:
        """How many finite numbers became infinite by `dtype=`, by address, if any."""
        if OVERFLOWED not in self._beside:
            return {}
        return overflows(
            self.plan, self._beside[OVERFLOWED].sum(axis=0, dtype=np.int64)
        )

    def lengths(self, name: str) -> Array:
        """Returns the true sizes of the rows of a value that was padded.

        Args:
            name: Its address.

        Returns:
            One number for each row; or, if several axes were padded, one for each of
            them: `(rows, axes)`.

        Raises:
            AddressError: If there is no such value.
            OptionError: If it was not padded: its rows all have one size.
        """
        columns = length_columns(self.plan, name)
        found: Array = self._beside[LENGTHS][:, columns]
        return found

    def __getitem__(self, name: str) -> Array:
        if name in self._arrays:
            return self._arrays[name]
        recipe = self.plan.recipes.get(name)
        if recipe is None:
            raise unknown(name, self.plan)
        parts = [self[part] for part in recipe.addresses]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, recipe.axis)

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan.addresses)

    def __len__(self) -> int:
        return len(self.plan.addresses)

    def before(self, join: str) -> dict[str, Array]:
        """Returns the branches of one join, by what made them, in their order.

        Args:
            join: The path of the join.

        Raises:
            AddressError: If there is no such join.
        """
        return {made_by: self[name] for made_by, name in branches(self.plan, join)}

    def map(self, function: Callable[..., Array], *others: "Values") -> "Values":
        """Returns new values: a function of each array, labels and the like too.

        Args:
            function: Takes an array, and the same one of each of the `others`.
            others: Further values of the same plan.
        """
        arrays = {
            name: function(array, *(other._arrays[name] for other in others))
            for name, array in self._arrays.items()
        }
        labels, ids, weights, beside = (
            tree.mapped(function, *same)
            for same in zip(self._along(), *(o._along() for o in others), strict=True)
        )
        return Values(self.plan, arrays, labels, ids, weights, beside)

    def _along(self) -> tuple[Any, ...]:
        return self.labels, self.ids, self.sample_weight, self._beside

    def __repr__(self) -> str:
        return f"<layertap.Values: {len(self)} values, {self.rows:,} rows>"

    def _repr_html_(self) -> str:
        return tables.html(self.plan.table(self.rows))


def branches(plan: Plan, join: str) -> Iterator[tuple[str, str]]:
    """Yields what made each branch of a join, and the branch's address.

    Where one operation made two of them, the second is `name@2`.

    Args:
        plan: The plan.
        join: The path of the join.
    """
    counts: dict[str, int] = {}
    for branch in plan.join(join).branches:
        count = counts[branch.made_by] = counts.get(branch.made_by, 0) + 1
        suffix = f"@{count}" if count > 1 else ""
        yield branch.made_by + suffix, branch.address


def overflows(plan: Plan, counts: Array) -> dict[str, int]:
    """Returns counts of overflows by address, without the zeros.

    Args:
        plan: The plan.
        counts: One for each value that was narrowed.
    """
    columns = zip(plan.narrowed, counts, strict=True)
    return {name: int(count) for name, count in columns if count}


def auxiliary_arrays(plan: Plan) -> dict[str, list[Any]]:
    """Returns what is stored beside the values of a plan: arrays and their columns."""
    found: dict[str, list[Any]] = {
        OVERFLOWED: list(plan.narrowed),
        LENGTHS: [[name, axis] for name in plan.padded for axis in plan.padded[name]],
    }
    return {name: columns for name, columns in found.items() if columns}


def length_columns(plan: Plan, name: str) -> int | slice:
    """Returns in which columns of `lengths` the sizes of a value are.

    Raises:
        AddressError: If there is no such value.
        OptionError: If it was not padded.
    """
    if name not in plan.addresses:
        raise unknown(name, plan)
    # Values that are joined when they are read have the sizes of their parts.
    while name in plan.recipes:
        name = plan.recipes[name].addresses[0]
    start = 0
    for other, axes in plan.padded.items():
        if other == name:
            return start if len(axes) == 1 else slice(start, start + len(axes))
        start += len(axes)
    raise OptionError(f"{name} was not padded: all its rows have one shape.")


def unknown(name: str, plan: Plan) -> AddressError:
    """Returns the error for an address that a plan does not have."""
    if not isinstance(name, str):
        return AddressError(
            f"An address is a string such as {plan.addresses[0]!r}, not {name!r}."
        )
    for refused in plan.refused:
        if refused.address == name:
            return AddressError(f"{name!r} can't be had: {refused.reason}.")
    return AddressError(
        f"No value {name!r} of {plan.model!r} here. "
        + address.suggest(name, plan.addresses, what="address")
    )
