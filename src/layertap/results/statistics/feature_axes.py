"""Which units the values of a plan have, and the statistics of all of them.

Statistics are gathered, and kept, of the values that are stored; those of values that
are made of others follow from them.
"""

import functools
from collections.abc import Mapping, Sequence

from layertap.core.plan import Plan, Recipe, Value
from layertap.results.statistics.moments import Statistics

# Of a value, of all values that are stored, and of those too that are made of them. A
# value with more units, or after which there would be more, is described as a whole, or
# a store would say more of its values than it holds.
MOST_UNITS, MOST_STORED, _MOST_TOGETHER = 2**15, 2**17, 2**18


def unit_axes(plan: Plan) -> dict[str, int | None]:
    """Returns the axis of the units of each stored value that has statistics.

    Complex values have none. The axis is None where all numbers are one unit.

    Args:
        plan: The plan of the values, with all sizes known.
    """
    joined = {
        branch.address: join.axis
        for join in plan.joins
        for branch in join.branches
        if join.kind == "concatenate" and plan.reduce is None
    }
    found: dict[str, int | None] = {}
    together = 0
    for value in plan.stored:
        if not value.dtype.startswith("complex"):
            axis = _unit_axis(value, joined.get(value.address))
            units = 1 if axis is None else value.shape[axis] or 1
            if units > MOST_UNITS or together + units > MOST_STORED:
                axis = None
            together += units if axis is not None else 1
            found[value.address] = axis
    return found


def _unit_axis(value: Value, joined: int | None) -> int | None:
    last = len(value.shape) - 1
    return (joined if joined and joined <= last else last) or None


def of_values(plan: Plan, stored: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """Returns the statistics of all values, those too that are made of others.

    A value joined of others along the axis of their units has the units of all; joined
    along another, their units together; and where they have no units in common, one.

    Args:
        plan: The plan of the values. No value is made of itself.
        stored: Those of the stored values, by address.
    """
    found = dict(stored)
    room = _MOST_TOGETHER - sum(each.units for each in stored.values())

    def of(name: str) -> Statistics | None:
        nonlocal room
        if name not in found and name in plan.recipes:
            recipe = plan.recipes[name]
            parts = [part for part in map(of, recipe.addresses) if part is not None]
            if len(parts) == len(recipe.addresses):
                found[name] = made_of(parts, recipe, min(room, MOST_UNITS))
                if len(parts) > 1:
                    room -= found[name].units
        return found.get(name)

    all_of_them = {name: of(name) for name in plan.addresses}
    return {name: known for name, known in all_of_them.items() if known is not None}


def made_of(parts: Sequence[Statistics], recipe: Recipe, most: int) -> Statistics:
    """Returns the statistics of a value that is made of others.

    Args:
        parts: Those of what it is made of.
        recipe: How it is made.
        most: How many units it may have.
    """
    if len(parts) == 1:
        return parts[0]
    axes = {part.axis for part in parts}
    if axes == {recipe.axis} and sum(part.units for part in parts) <= most:
        return Statistics.joined(recipe.axis, parts)
    if len(axes) > 1 or recipe.axis in axes or parts[0].units > most:
        parts = [part.whole for part in parts]
    if len({part.units for part in parts}) > 1:
        parts = [part.whole for part in parts]
    return functools.reduce(Statistics.merged, parts)
