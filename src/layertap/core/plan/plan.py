"""The plan of a save: which values, gradients and attributions; and its table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from layertap.core import tables, text
from layertap.core.address import Effect, suggest
from layertap.core.plan.decode import decode
from layertap.core.plan.records import (
    Derived,
    Dtype,
    Ignored,
    Join,
    Output,
    Recipe,
    Refused,
    Value,
    described,
)
from layertap.errors import AddressError, RefusedError

AnyValue = TypeVar("AnyValue", bound=Value)


@dataclass(frozen=True)
class Plan(tables.Tabular):
    """The values that a save of a model captures. Printed, it is a table.

    Attributes:
        model: The model's name.
        joins: The joins, in the order in which the model runs them.
        outputs: The outputs that `outputs=` selected.
        refused: Requested values that can't be captured, each with its reason.
        recipes: How each value that is not stored is rebuilt, by its address.
        dtype: The dtype that floating values are stored as; None for their own.
        reduce: The name of the reduction of the stored values, or None.
        narrowed: The dtypes that stored values had before `dtype`, by address.
        padded: The axes along which stored values are padded, by address. Their sizes
            are the largest; the store has the true ones, too.
        folded: Values whose rows the model folds into one axis, by address: that axis
            is `a * rows * b` for `(a, b)`. They are stored as `(rows, a * b, …)`.
        ignored: Traced joins that do not join data, each with the reason.
        skips: The addresses of those among `outputs` that run past the joins to the
            head.
        channels_first: The addresses of those values, pooled or with gradients, whose
            channels are the first axis after the rows, not the last.
        random: The paths of operations that draw random numbers at inference: the same
            numbers in every batch, whatever ran before.
        derived: The gradients and attributions that are stored with the values.
        gradients_of: The target of the gradients: `"loss"`, the index of an output, or
            the name of a function; None without gradients.
        attributions_of: The same for attributions.
        baseline: The values at which the attributions begin.
        steps: How many gradients each attribution is a mean of; None for as many as
            each row needs.
    """

    model: str
    joins: tuple[Join, ...]
    outputs: tuple[Output, ...] = ()
    refused: tuple[Refused, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    dtype: Dtype | None = None
    reduce: str | None = None
    narrowed: Mapping[str, Dtype] = field(default_factory=dict)
    padded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    folded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[Ignored, ...] = ()
    skips: tuple[str, ...] = ()
    channels_first: tuple[str, ...] = ()
    random: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()
    gradients_of: str | None = None
    attributions_of: str | None = None
    baseline: str | None = None
    steps: int | None = None

    @property
    def values(self) -> Iterator[Value]:
        """All planned values, aliases too."""
        for join in self.joins:
            yield from join.branches
        yield from self.outputs

    @property
    def addresses(self) -> list[str]:
        """The addresses of all planned values, aliases too."""
        return [value.address for value in self.values]

    @property
    def missing(self) -> dict[str, str]:
        """The reasons why requested values can't be captured, by address."""
        return {refused.address: refused.reason for refused in self.refused}

    @property
    def computed(self) -> list[Value]:
        """The values that are stored as computed; all others are rebuilt from them."""
        return [value for value in self.values if value.address not in self.recipes]

    @property
    def stored(self) -> list[Value]:
        """All that is stored of the model: such values, gradients and attributions."""
        return [*self.computed, *self.derived]

    @property
    def known(self) -> list[str]:
        """The addresses of all values, gradients and attributions."""
        return [*self.addresses, *(derived.address for derived in self.derived)]

    def effects(self, kind: Effect) -> dict[str, str]:
        """Returns the addresses of the gradients or attributions, by the value's."""
        known = {one.value: one.address for one in self.derived if one.kind == kind}
        return {name: known[name] for name in self.addresses if name in known}

    @property
    def bytes_per_row(self) -> int | None:
        """Bytes of one row in a store, or None if a size is unknown."""
        sizes = [value.bytes_per_row for value in self.stored]
        return None if None in sizes else sum(n for n in sizes if n is not None)

    @property
    def lines(self) -> dict[str, list[str]]:
        """The joins and outputs with attributions, and the values that these are of.

        Each is a line of its own: the branches of a join go along it together.
        """
        known = self.effects("attribution")
        found = {join.path: join.addresses for join in self.joins}
        found |= {output.address: [output.address] for output in self.outputs}
        return {
            name: values
            for name, values in found.items()
            if values and all(value in known for value in values)
        }

    def of_effects(self, kind: Effect) -> "Plan":
        """Returns a plan of gradients or attributions, at the addresses of the values.

        Values without one are left out.
        """
        names = self.effects(kind)
        found = {one.address: one for one in self.derived}

        def left(values: tuple[AnyValue, ...]) -> tuple[AnyValue, ...]:
            return tuple(
                replace(
                    value,
                    shape=found[names[value.address]].shape,
                    dtype=found[names[value.address]].dtype,
                    alias_of=None,
                )
                for value in values
                if value.address in names
            )

        def renamed(named: Mapping[str, Any]) -> dict[str, Any]:
            return {n: named[other] for n, other in names.items() if other in named}

        joins = [(join, left(join.branches)) for join in self.joins]
        return replace(
            self,
            joins=tuple(
                replace(join, branches=kept, whole=len(kept) == len(join.branches))
                for join, kept in joins
                if kept
            ),
            outputs=left(self.outputs),
            recipes={},
            narrowed=renamed(self.narrowed),
            padded=renamed(self.padded),
            derived=(),
        )

    def join(self, path: str) -> Join:
        """Returns the join at a path.

        Raises:
            AddressError: If there is no such join; the message has the nearest paths.
        """
        for join in self.joins:
            if join.path == path:
                return join
        raise AddressError(
            f"No join {path!r} in the plan of {self.model!r}. "
            + suggest(path, [join.path for join in self.joins], what="join")
        )

    def check_complete(self, path: str, advice: str) -> None:
        """Raises a `RefusedError` if some branches of a join can't be captured."""
        if self.join(path).whole:
            return
        reasons = [
            f"{name}: {reason}"
            for name, reason in self.missing.items()
            if name.startswith(f"{path}/in/")
        ]
        raise RefusedError(
            f"{path!r} is not complete: some of its branches can't be captured. "
            f"{'; '.join(reasons)}. {advice}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as data for JSON, with the bytes that follow from it."""
        data = asdict(self)
        branches = [branch for join in data["joins"] for branch in join["branches"]]
        records = [*branches, *data["outputs"], *data["derived"]]
        for record, value in zip(records, [*self.values, *self.derived], strict=True):
            record["bytes_per_row"] = value.bytes_per_row
        return data | {"bytes_per_row": self.bytes_per_row}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Returns the plan that `to_json` described.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a part has another type.
            ValueError: If a shape or dtype is impossible.
        """
        # Earlier versions did not save these.
        later = ["dtype", "reduce", "narrowed", "padded", "folded", "ignored", "skips"]
        later += ["channels_first", "random", "derived", "gradients_of"]
        later += ["attributions_of", "baseline", "steps"]
        plan = cls("", ())
        return decode(cls, {**{name: getattr(plan, name) for name in later}, **data})

    def table(
        self,
        rows: int | None = None,
        more: Mapping[str, Mapping[str, RenderableType]] | None = None,
    ) -> Table:
        """Returns the plan as a table for `rich` to print.

        Args:
            rows: The number of rows of data; the caption has the total for them.
            more: Further columns by heading, each with cells by address.
        """
        further = (more or {}).values()

        def add(value: Value, indent: str = "") -> None:
            others = (cells.get(value.address, "") for cells in further)
            table.add_row(*_cells(value, indent), *others)

        table = tables.titled(f"Plan of {self.model}", self._summary(rows))
        tables.add_columns(table, "address", "made by", overflow="fold")
        tables.add_columns(table, "shape", "dtype", no_wrap=True)
        numbers = ("bytes/row", *(more or {}))
        tables.add_columns(table, *numbers, justify="right", no_wrap=True)
        for join in self.joins:
            axis = "" if join.axis is None else f", axis {join.axis}"
            cells = (join.path, join.kind + axis, tables.shape(join.shape), join.dtype)
            table.add_row(*map(Text, cells), style="bold")
            for branch in join.branches:
                add(branch, indent="  ")
            table.add_section()
        for output in self.outputs:
            add(output)
        table.add_section()
        for derived in self.derived:
            add(derived)
        return table

    def _summary(self, rows: int | None) -> Text:
        per_row = self.bytes_per_row
        total = ""
        if rows is not None:
            size = tables.size(None if per_row is None else per_row * rows)
            total = f", {size} for {text.counted(rows, 'row')}"
        summary = Text(
            f"{text.counted(len(self.addresses), 'value')}, {len(self.computed)} of "
            f"them stored: {tables.size(per_row)} per row{total}."
        )
        if self.gradients_of is not None:
            summary.append(f"\ngradients of {described(self.gradients_of)}")
        if self.attributions_of is not None:
            target = described(self.attributions_of)
            steps = "as many steps as needed"
            if self.steps is not None:
                steps = text.counted(self.steps, "step")
            line = f"\nattributions of {target}: baseline {self.baseline}, {steps}"
            summary.append(line)
        if self.reduce is not None:
            summary.append(f"\nreduced: {self.reduce}")
        if self.dtype is not None:
            summary.append(f"\nfloating numbers stored as {self.dtype}")
        if self.skips:
            summary.append(f"\nrun past the joins to the head: {', '.join(self.skips)}")
        if self.padded:
            summary.append(f"\n{len(self.padded)} of them padded to the shapes shown")
        if self.random:
            paths = ", ".join(self.random)
            summary.append(f"\nrandom numbers, the same in every batch: {paths}")
        if self.ignored:
            joins = text.counted(len(self.ignored), "join")
            why = 'not joining data: see "ignored" of the plan, or joins "all".'
            summary.append(f"\n{joins} left out, {why}", style="dim")
        for refused in self.refused:
            line = f"\nrefused: {refused.address}: {refused.reason}"
            summary.append(line, style="red")
        return summary


def named_branches(plan: Plan, join: str) -> Iterator[tuple[str, str]]:
    """Yields the maker of each branch of a join, and the branch's address.

    A second branch with the same maker is `name@2`.
    """
    counts: dict[str, int] = {}
    for branch in plan.join(join).branches:
        count = counts[branch.made_by] = counts.get(branch.made_by, 0) + 1
        suffix = f"@{count}" if count > 1 else ""
        yield branch.made_by + suffix, branch.address


def _cells(value: Value, indent: str = "") -> list[Text]:
    name = Text(indent + value.address)
    size = "?" if value.bytes_per_row is None else f"{value.bytes_per_row:,}"
    if value.alias_of is not None:
        name.append(f"\n{indent}= {value.alias_of}", style="dim")
        # Not stored, and so not in the total below.
        size = "0"
    facts = (value.made_by, tables.shape(value.shape), value.dtype, size)
    return [name, *map(Text, facts)]
