"""Values in memory, by address: the result of a capture, or a batch of a store."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables, text, tolerance, tree
from layertap.core.address import GAPS, LENGTHS, OVERFLOWED, parse, suggest
from layertap.core.plan import Plan, named_branches
from layertap.errors import AddressError, OptionError

Array = NDArray[Any]
AnyArray = TypeVar("AnyArray")

# How many values are listed where a list would fill the screen.
_MOST_SHOWN = 20


class PlannedValues(Mapping[str, AnyArray], Generic[AnyArray]):
    """The values of a plan, by address, in memory or on disk."""

    plan: Plan

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows."""

    @abstractmethod
    def _auxiliary_array(self, name: str) -> Any:
        """Returns one of `auxiliary_arrays`, which can be indexed."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan.addresses)

    def __len__(self) -> int:
        return len(self.plan.addresses)

    @property
    def missing(self) -> dict[str, str]:
        """The reasons why requested values are missing, by address."""
        return self.plan.missing

    def before(self, join: str, *, partial: bool = False) -> dict[str, AnyArray]:
        """Returns the branches of one join in order, by the operation that made each.

        Args:
            join: The path of the join.
            partial: Whether to return the captured branches although others are
                missing.

        Raises:
            AddressError: If there is no such join.
            RefusedError: If branches of it are missing, unless `partial`.
        """
        if not partial:
            self.plan.check_complete(join, "Pass partial=True for the others.")
        names = named_branches(self.plan, join)
        return {made_by: self[name] for made_by, name in names}

    @property
    def gradients(self) -> Mapping[str, AnyArray]:
        """The gradients, by the addresses of their values: see `layertap.save`."""
        names = self.plan.effects("gradient")
        return {name: self[effect] for name, effect in names.items()}

    @property
    def attributions(self) -> Mapping[str, AnyArray]:
        """The attributions, by the addresses of their values: see `layertap.save`."""
        names = self.plan.effects("attribution")
        return {name: self[effect] for name, effect in names.items()}

    @property
    def gaps(self) -> dict[str, Array]:
        """The error of the sum of attributions in each row, by join or output.

        It is relative to the target at the baseline or at the values, or to the sizes
        of the parts, whichever is largest.
        """
        if not self.plan.lines:
            return {}
        found = self._auxiliary_array(GAPS)[:]
        return {name: found[:, i] for i, name in enumerate(self.plan.lines)}

    def lengths(self, name: str) -> Array:
        """Returns the true sizes of the rows of a padded value.

        Args:
            name: Its address.

        Returns:
            Integers of shape `(rows,)`; `(rows, axes)` if several axes were padded.

        Raises:
            AddressError: If there is no such value.
            OptionError: If it was not padded: all its rows have one size.
        """
        columns = length_columns(self.plan, name)
        return self._auxiliary_array(LENGTHS)[:, columns]


class Values(PlannedValues[Array]):
    """Values in memory, by address: a read-only mapping of NumPy arrays.

    Aliases take no memory: an alias of one value is the same array, an alias of several
    is concatenated on each access.

    Args:
        plan: The plan of the values.
        arrays: The stored values, by address.
        labels: The labels of the rows: an array, a structure of arrays, or None.
        ids: The ids of the rows, or None.
        sample_weight: The weights of the samples, in the same form as `labels`.
        auxiliary: The arrays `overflowed` and `lengths`, if there are any.
    """

    def __init__(
        self,
        plan: Plan,
        arrays: Mapping[str, Array],
        labels: Any = None,
        ids: Array | None = None,
        sample_weight: Any = None,
        auxiliary: Mapping[str, Array] | None = None,
    ) -> None:
        self.plan = plan
        self.labels = labels
        self.ids = ids
        self.sample_weight = sample_weight
        self._arrays = arrays
        self._auxiliary = auxiliary or {}

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self._arrays.values())))

    @property
    def overflowed(self) -> dict[str, int]:
        """How many finite numbers `dtype=` made infinite, by address, if any."""
        if OVERFLOWED not in self._auxiliary:
            return {}
        counts = self._auxiliary[OVERFLOWED].sum(axis=0, dtype=np.int64)
        return overflow_counts(self.plan, counts)

    def _auxiliary_array(self, name: str) -> Array:
        return self._auxiliary[name]

    def __getitem__(self, name: str) -> Array:
        if isinstance(name, str) and name in self._arrays:
            return self._arrays[name]
        recipe = self.plan.recipes.get(name) if isinstance(name, str) else None
        if recipe is None:
            raise unknown_address(self.plan, name)
        parts = [self[part] for part in recipe.addresses]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, recipe.axis)

    def map(self, function: Callable[..., Array], *others: "Values") -> "Values":
        """Returns new values: a function of each array, also of labels and ids.

        Args:
            function: Accepts an array, and the same one of each of the `others`.
            others: Further values of the same plan.
        """
        arrays = {
            name: function(array, *(other._arrays[name] for other in others))
            for name, array in self._arrays.items()
        }
        along = zip(self._along(), *(o._along() for o in others), strict=True)
        return Values(
            self.plan, arrays, *(tree.mapped(function, *same) for same in along)
        )

    def _along(self) -> tuple[Any, ...]:
        return self.labels, self.ids, self.sample_weight, self._auxiliary

    def __repr__(self) -> str:
        lines = [f"<layertap.Values: {len(self)} values, {self.rows:,} rows>"]
        lines += [
            f"  {value.address}: {tables.shape(value.shape)} {value.dtype}, made by "
            f"{value.made_by}"
            for value in islice(self.plan.values, _MOST_SHOWN)
        ]
        if len(self) > _MOST_SHOWN:
            lines.append(f"  and {len(self) - _MOST_SHOWN:,} more")
        return text.printable("\n".join(lines))

    def _repr_html_(self) -> str:
        from layertap.core.display import values

        return values.display(self)


def overflow_counts(plan: Plan, counts: Any) -> dict[str, int]:
    """Returns the overflows of narrowed values by address, without the zeros."""
    columns = zip(plan.narrowed, counts, strict=True)
    return {name: int(count) for name, count in columns if count}


def auxiliary_arrays(plan: Plan) -> dict[str, list[Any]]:
    """Returns the arrays that a store has besides the values, with their columns."""
    columns: dict[str, list[Any]] = {
        OVERFLOWED: list(plan.narrowed),
        LENGTHS: [[name, axis] for name in plan.padded for axis in plan.padded[name]],
        GAPS: list(plan.lines),
    }
    return {name: names for name, names in columns.items() if names}


def auxiliary_dtype(name: str) -> str:
    """Returns the dtype of one of `auxiliary_arrays`."""
    return "float32" if name == GAPS else "int32"


def least_share(plan: Plan, name: str) -> float:
    """Returns a share of a row by which two computations may always differ.

    Attributions are divided until they are complete enough, in another way for other
    rounding.
    """
    values = {other: value for value, other in plan.effects("attribution").items()}
    if name not in values:
        return 0.0
    dtypes = {value.address: value.dtype for value in plan.values}
    computed = plan.narrowed.get(values[name], dtypes[values[name]])
    return max(1e-3, 64 * tolerance.precision(computed))


def length_columns(plan: Plan, name: str) -> int | slice:
    """Returns the columns of `lengths` that have the true sizes of a value."""
    if name not in plan.known:
        raise unknown_address(plan, name)
    # A value that is rebuilt has the sizes of its parts.
    while name in plan.recipes:
        name = plan.recipes[name].addresses[0]
    start = 0
    for other, axes in plan.padded.items():
        if other == name:
            return start if len(axes) == 1 else slice(start, start + len(axes))
        start += len(axes)
    raise OptionError(f"{name} was not padded: all its rows have one shape.")


def unknown_address(plan: Plan, name: str) -> AddressError:
    """Returns the error for an address that a plan does not have."""
    if not isinstance(name, str):
        return AddressError(
            f"An address is a string such as {plan.addresses[0]!r}. Received {name!r}. "
            f"Rows are those of one array: values[{plan.addresses[0]!r}][:10]."
        )
    for refused in plan.refused:
        if refused.address == name:
            return AddressError(f"{name!r} can't be captured: {refused.reason}.")
    made = [
        v.address for v in plan.values if name in (v.made_by, parse(v.address).path)
    ]
    advice = f"{name!r} is an operation, with {', '.join(map(repr, made[:3]))} here."
    return AddressError(
        f"No value {name!r} of {plan.model!r} here. "
        + (advice if made else suggest(name, plan.addresses, what="address"))
    )
