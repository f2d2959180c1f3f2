"""The axis along which a value has units, and the statistics of joined values.

Statistics are gathered and stored for stored values; others are derived from them.
"""

import functools
from collections.abc import Mapping, Sequence

from layertap.core.plan import Plan, Recipe
from layertap.results.statistics.moments import Statistics

# The most units of one value, of all stored values, and of all values. Other values
# are one unit each: a store must not say more of its values than it holds.
MOST_UNITS, MOST_STORED, _MOST_TOGETHER = 2**15, 2**17, 2**18


def unit_axes(plan: Plan) -> dict[str, int | None]:
    """Returns the axis of the units of each stored value that has statistics.

    None stands for a value that is one unit. Complex values have no statistics.
    """
    joined = {
        name: join.axis
        for join in plan.joins
        for name in join.addresses
        if join.kind == "concatenate" and plan.reduce is None
    }
    axes: dict[str, int | None] = {}
    total = 0
    for value in plan.stored:
        if not value.dtype.startswith("complex"):
            last = len(value.shape) - 1
            axis = min(joined.get(value.address) or last, last) or None
            units = 1 if axis is None else value.shape[axis] or 0
            if not 0 < units <= MOST_UNITS or total + units > MOST_STORED:
                axis = None
            total += units if axis is not None else 1
            axes[value.address] = axis
    return axes


def derive_statistics(
    plan: Plan, stored: Mapping[str, Statistics]
) -> dict[str, Statistics]:
    """Returns the statistics of all values, derived from those of the stored ones."""
    statistics = dict(stored)
    units_left = _MOST_TOGETHER - sum(known.units for known in stored.values())

    def derive(name: str) -> Statistics | None:
        nonlocal units_left
        if name not in statistics and name in plan.recipes:
            recipe = plan.recipes[name]
            parts = [derive(part) for part in recipe.addresses]
            known = [part for part in parts if part is not None]
            if len(known) == len(parts):
                most = min(units_left, MOST_UNITS)
                statistics[name] = _join_statistics(known, recipe, most)
                if len(parts) > 1:
                    units_left -= statistics[name].units
        return statistics.get(name)

    derived = {name: derive(name) for name in plan.known}
    return {name: known for name, known in derived.items() if known is not None}


def _join_statistics(
    parts: Sequence[Statistics], recipe: Recipe, most: int
) -> Statistics:
    """Joins the statistics of parts, with at most so many units.

    Joined along their units' axis, the value has the units of all; along another, the
    same units. Parts without common units become one unit.
    """
    if len(parts) == 1:
        return parts[0]
    axes = {part.axis for part in parts}
    if axes == {recipe.axis} and sum(part.units for part in parts) <= most:
        return Statistics.concatenate(recipe.axis, parts)
    forms = {(part.axis, part.units) for part in parts}
    if len(forms) > 1 or recipe.axis in axes or parts[0].units > most:
        parts = [part.whole for part in parts]
    return functools.reduce(Statistics.merge, parts)
