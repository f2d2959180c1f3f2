"""A plan in the making: what of what was heard is stored, an alias, or refused."""

from collections.abc import Hashable, Iterable, Sequence

from layertap.core import address
from layertap.core.plan import Branch, Join, Output, Recipe, Refused
from layertap.planning.join_filter import inner_first
from layertap.tracing.records import TracedJoin, TracedValue


class Drafting:
    """A plan in the making: what is stored, what is an alias, what is refused.

    Args:
        joins: The joins that are taken.

    Attributes:
        joins: They, as the plan has them.
        refused: What can't be had, each with its reason.
        recipes: How each value that is not stored is rebuilt, by its address.
    """

    def __init__(self, joins: Iterable[TracedJoin]) -> None:
        self.joins: list[Join] = []
        self.refused: list[Refused] = []
        self.recipes: dict[str, Recipe] = {}
        # Where a tensor is to be found: its alias, and the recipe.
        self._known: dict[Hashable, tuple[str, Recipe]] = {}
        for heard in inner_first(list(joins)):
            self._add(heard)

    def _add(self, heard: TracedJoin) -> None:
        branches = []
        for index, value in enumerate(heard.inputs):
            name = address.branch(heard.path, index)
            if self._allowed(name, value):
                branches.append(Branch(*self._draft(name, value)))
        join = Join(
            heard.path,
            heard.kind,
            heard.axis,
            heard.output.shape,
            heard.output.dtype,
            tuple(branches),
            whole=len(branches) == len(heard.inputs),
        )
        self.joins.append(join)
        if join.kind != "concatenate" or not join.whole or not join.axis:
            return
        if all(branch.dtype == join.dtype for branch in branches):
            recipe = Recipe(tuple(self._leaves(join)), join.axis)
            self._known.setdefault(
                heard.output.token, (address.output(join.path), recipe)
            )

    def outputs(self, path: str, values: Sequence[TracedValue]) -> Iterable[Output]:
        """Drafts the outputs of one operation."""
        for index, value in enumerate(values):
            name = address.output(path, index, len(values))
            if self._allowed(name, value):
                yield Output(*self._draft(name, value))

    def _allowed(self, name: str, value: TracedValue) -> bool:
        reason = value.fault
        if not reason and not value.by_row:
            reason = (
                f"it has shape {value.shape}, which does not begin with one row for "
                "each row of the data"
            )
        if reason:
            self.refused.append(Refused(name, reason))
        return not reason

    def _draft(
        self, name: str, value: TracedValue
    ) -> tuple[str, str, tuple[int | None, ...], str, str | None]:
        alias, recipe = self._known.get(value.token, (None, None))
        if recipe is None:
            self._known[value.token] = (name, Recipe((name,)))
        else:
            self.recipes[name] = recipe
        return name, value.made_by, value.shape, value.dtype, alias

    def _leaves(self, join: Join) -> Iterable[str]:
        """Yields the addresses that a join is rebuilt from, joins within it undone."""
        for branch in join.branches:
            recipe = self.recipes.get(branch.address)
            if recipe and (len(recipe.addresses) == 1 or recipe.axis == join.axis):
                yield from recipe.addresses
            else:
                yield branch.address
