"""Builds a plan: which traced values are stored, aliased or refused."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from layertap.core import address
from layertap.core.address import Effect
from layertap.core.plan import (
    Branch,
    Derived,
    Ignored,
    Join,
    Output,
    Plan,
    Recipe,
    Refused,
)
from layertap.errors import ModelError
from layertap.planning.join_filter import inner_first
from layertap.planning.padding import Padding, unknown_axes
from layertap.planning.reduction import Reduction
from layertap.tracing.records import TracedJoin, TracedValue

AnyValue = TypeVar("AnyValue", Branch, Output, Derived)


class PlanBuilder:
    """Builds a Plan: decides for each traced value whether it is stored or refused.

    A value is stored once: the same tensor at another address becomes an alias, and a
    concatenation of stored values becomes a recipe.
    """

    def __init__(self, reduction: Reduction, padding: Padding | None = None) -> None:
        self.joins: list[Join] = []
        self.outputs: list[Output] = []
        self.refused: list[Refused] = []
        self._reduction = reduction
        self._padding = padding
        self._skips: list[str] = []
        self._recipes: dict[str, Recipe] = {}
        self._narrowed: dict[str, str] = {}
        self._padded: dict[str, tuple[int, ...]] = {}
        self._folded: dict[str, tuple[int, ...]] = {}
        self._channels_first: set[str] = set()
        self._traced: dict[str, TracedValue] = {}
        self._derived: list[Derived] = []
        # By the token of a tensor: the first address that has it, and its recipe.
        self._sources: dict[Hashable, tuple[str, Recipe]] = {}

    def build(
        self, model: str, ignored: Iterable[Ignored], random: tuple[str, ...]
    ) -> Plan:
        """Returns the plan of all that was added."""
        return Plan(
            model,
            tuple(self.joins),
            tuple(self.outputs),
            tuple(self.refused),
            self._recipes,
            dtype=self._reduction.dtype,
            reduce=self._reduction.name,
            narrowed=self._narrowed,
            padded=self._padded,
            folded=self._folded,
            ignored=tuple(ignored),
            skips=tuple(self._skips),
            channels_first=tuple(sorted(self._channels_first)),
            random=random,
            derived=tuple(self._derived),
        )

    def add_joins(self, traced_joins: Sequence[TracedJoin]) -> None:
        """Adds joins with their branches, inner joins first."""
        for traced in inner_first(traced_joins):
            branches = [
                self._value(Branch, address.branch(traced.path, index), value)
                for index, value in enumerate(traced.inputs)
            ]
            join = Join(
                traced.path,
                traced.kind,
                traced.axis,
                traced.output.shape,
                traced.output.dtype,
                tuple(branch for branch in branches if branch is not None),
                whole=None not in branches,
            )
            self.joins.append(join)
            if self._rebuilds(join, traced):
                recipe = Recipe(tuple(self._leaves(join)), join.axis or 0)
                source = address.output(join.path), recipe
                self._sources.setdefault(traced.output.token, source)

    def add_outputs(self, outputs: Mapping[str, TracedValue]) -> None:
        """Adds outputs of operations, by address."""
        for name, traced in outputs.items():
            output = self._value(Output, name, traced)
            if output is not None:
                self.outputs.append(output)

    def add_stop(self, stopped: tuple[str, str] | None) -> None:
        """Refuses the values after the operation at which a trace ended, if it did."""
        if stopped is not None:
            path, reason = stopped
            reason = (
                f"here Python decides by values, which a plan does not have ({reason})."
                " Later values are not available; with `keras.ops.where` or "
                "`keras.ops.cond` the model could be traced to its end"
            )
            self.refused.append(Refused(path, reason))

    def add_skips(
        self, model: str, names: Iterable[str], outputs: Mapping[str, TracedValue]
    ) -> None:
        """Adds the values of connections that run past the joins to a head."""
        self._skips = list(names)
        planned = {output.address for output in self.outputs}
        added = [n for n in self._skips if n in outputs and n not in planned]
        self.add_outputs({name: outputs[name] for name in added})
        for name in set(self._skips) - {output.address for output in self.outputs}:
            reasons = [r.reason for r in self.refused if r.address == name]
            raise ModelError(
                f"The head of {model!r} needs {name}, which can't be captured: "
                f"{'; '.join(reasons) or 'it was not traced'}."
            )

    def add_effects(self, kind: Effect, names: Iterable[str]) -> None:
        """Adds the gradients or attributions of values that were added before."""
        for name in names:
            traced, effect = self._traced[name], address.effect(name, kind)
            if not traced.dtype.startswith(("float", "bfloat")):
                reason = f"its numbers are {traced.dtype}, which have no derivative"
                self.refused.append(Refused(effect, reason))
                continue
            # A gradient in float16 may be too small for that.
            dtype = "float32" if traced.dtype == "float16" else traced.dtype
            traced = replace(traced, token=effect, dtype=dtype)
            if traced.data_format == "channels_first":
                # Maps of gradients are pooled, whether they were reduced or not.
                self._channels_first |= {name, effect}
            derived = self._value(Derived, effect, traced)
            if derived is not None:
                self._derived.append(derived)

    def _value(
        self, kind: type[AnyValue], name: str, traced: TracedValue
    ) -> AnyValue | None:
        """Returns a value as it is stored; None if it is refused."""
        reason = traced.fault
        if not reason and traced.by_row is False:
            reason = (
                f"its shape {traced.shape} does not begin with one row for each row "
                "of the data"
            )
        if reason:
            self.refused.append(Refused(name, reason))
            return None
        self._traced[name] = traced
        alias, recipe = self._sources.get(traced.token, (None, None))
        if recipe is None:
            self._sources[traced.token] = (name, Recipe((name,)))
        else:
            self._recipes[name] = recipe
        if traced.outer and traced.times:
            self._folded[name] = traced.outer, traced.times // traced.outer
        reduction = self._reduction
        # An alias is reduced like the value that it equals.
        known = self._channels_first
        first = alias in known if alias else reduction.pools_first(name, traced)
        if first:
            known.add(name)
        shape, dtype = reduction.reduced_spec(name, traced.shape, traced.dtype, first)
        stored_dtype = reduction.stored_dtype(dtype)
        if stored_dtype != dtype and recipe is None:
            self._narrowed[name] = dtype
        if self._padding is not None:
            shape = self._padding.fill(name, shape)
            value = address.value_of(name)
            computed = self._padding.shapes.get(value, traced.shape)
            opened, _ = reduction.reduced_spec(name, computed, traced.dtype, first)
            axes = unknown_axes(opened)
            if axes and recipe is None:
                self._padded[name] = axes
        return kind(name, traced.made_by, shape, stored_dtype, alias)

    def _rebuilds(self, join: Join, traced: TracedJoin) -> bool:
        """Returns whether the stored branches, joined, are the output of the join."""
        concatenated = join.kind == "concatenate" and join.whole and join.axis
        cast = any(value.dtype != join.dtype for value in traced.inputs)
        if self._reduction.reduce is not None or not concatenated or cast:
            return False
        leaves = self._leaves(join)
        return all(join.axis not in self._padded.get(name, ()) for name in leaves)

    def _leaves(self, join: Join) -> Iterator[str]:
        """Yields the addresses that a join is rebuilt from, inner joins resolved."""
        for branch in join.branches:
            recipe = self._recipes.get(branch.address)
            if recipe and (len(recipe.addresses) == 1 or recipe.axis == join.axis):
                yield from recipe.addresses
            else:
                yield branch.address
