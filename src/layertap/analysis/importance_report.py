"""Reports of importance: records, and their table. Reading them needs no model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from layertap.core import tables, text

# The most rows that are listed.
_MOST_NAMED = 10


@dataclass(frozen=True)
class Change:
    """The change of a metric when a branch is permuted between rows.

    Attributes:
        mean: The mean over the repetitions of the metric, minus the unchanged metric.
        spread: The standard deviation over the repetitions; NaN for a single one.
    """

    mean: float
    spread: float


@dataclass(frozen=True)
class BranchImportance:
    """How much a head depends on one branch.

    Attributes:
        address: The branch.
        made_by: The operation that it came from.
        join: The path of its join.
        permuted: By metric, the change when the branch is permuted between rows.
        zeroed: By metric, the change when the branch is zero.
        averaged: By metric, the change when each row is the mean of the branch.
        width_share: Its share of the size of the join along its axis; None for joins
            without one.
        norm_share: Its share of the mean squared norm of all the join's branches.
        attributed: Its share of the absolute saved attributions of its join's
            branches; None without attributions.
        dead: How many of its units are constant over all rows.
        units: How many numbers a row of it has.
        nan: How many NaN it has.
        inf: How many infinities it has.
    """

    address: str
    made_by: str
    join: str
    permuted: Mapping[str, Change]
    zeroed: Mapping[str, float]
    averaged: Mapping[str, float]
    width_share: float | None
    norm_share: float
    attributed: float | None
    dead: int
    units: int
    nan: int
    inf: int


@dataclass(frozen=True)
class Importance(tables.Tabular):
    """How much a head depends on each of its branches. Printed, it is a table.

    Attributes:
        head: The name of the head.
        rows: How many rows it was measured on.
        repeats: How often each branch was permuted.
        metrics: By name, the loss and the metrics of the unchanged values.
        branches: The branches, in the order of the joins.
        redundancy: By join, linear centred kernel alignment (CKA) between its measured
            branches, in their order: 1 if one is a rotation of the other, about 0, also
            slightly below, if they are linearly unrelated (Kornblith et al. 2019,
            "Similarity of Neural Network Representations Revisited"). It is the
            unbiased estimate, which does not grow with the width of the branches, and
            NaN for constant branches and for fewer than four rows.
        compared_rows: How many rows `redundancy` was computed on.
        left_out: The numbers of chosen rows that are not among `rows`: they hold NaN or
            infinities, which `branches` counts, and the loss was not finite.
    """

    head: str
    rows: int
    repeats: int
    metrics: Mapping[str, float]
    branches: tuple[BranchImportance, ...]
    redundancy: Mapping[str, tuple[tuple[float, ...], ...]]
    compared_rows: int
    left_out: tuple[int, ...] = ()

    @property
    def ranked(self) -> list[BranchImportance]:
        """The branches, by the loss that their permutation costs, largest first."""
        return sorted(
            self.branches, key=lambda b: b.permuted["loss"].mean, reverse=True
        )

    def records(self) -> list[dict[str, Any]]:
        """Returns one flat record for each branch, for `pandas.DataFrame`."""
        records = []
        for branch in self.branches:
            record = {
                name: value
                for name, value in vars(branch).items()
                if not isinstance(value, Mapping)
            }
            for metric, change in branch.permuted.items():
                record[f"{metric}_permuted"] = change.mean
                record[f"{metric}_permuted_spread"] = change.spread
                record[f"{metric}_zeroed"] = branch.zeroed[metric]
                record[f"{metric}_averaged"] = branch.averaged[metric]
            records.append(record)
        return records

    def to_json(self) -> dict[str, Any]:
        """Returns the report as data for JSON, with None for NaN."""
        return tables.finite(asdict(self))

    def table(self) -> Table:
        """Returns the table for `rich` to print, the most important branch first."""
        title = text.printable(f"Importance of branches to {self.head}")
        table = tables.titled(title, self._summary())
        tables.add_columns(table, "branch", "made by", overflow="fold")
        table.add_column("", no_wrap=True)
        numbers = ["permuted", "zeroed", "mean", "width", "norm", "dead units"]
        if self._attributed:
            numbers.insert(-1, "parts")
        tables.add_columns(table, *numbers, justify="right", no_wrap=True)
        tables.add_columns(table, "NaN/Inf", "most alike", no_wrap=True)
        for branch in self.ranked:
            for number, metric in enumerate(branch.permuted):
                names = ["", ""] if number else [branch.address, branch.made_by]
                rest = [] if number else self._rest(branch)
                table.add_row(*map(Text, [*names, *_changes(branch, metric), *rest]))
            table.add_section()
        return table

    @property
    def _attributed(self) -> bool:
        return any(branch.attributed is not None for branch in self.branches)

    def _rest(self, branch: BranchImportance) -> list[str]:
        shares = [branch.width_share, branch.norm_share]
        if self._attributed:
            shares.append(branch.attributed)
        return [
            *("" if share is None else f"{share:.0%}" for share in shares),
            f"{branch.dead:,} of {branch.units:,}",
            f"{branch.nan:,}/{branch.inf:,}" if branch.nan or branch.inf else "none",
            self._most_alike(branch),
        ]

    def _most_alike(self, branch: BranchImportance) -> str:
        """Returns the branch of the same join that is most similar."""
        siblings = [other for other in self.branches if other.join == branch.join]
        values = self.redundancy[branch.join][siblings.index(branch)]
        alike = [
            (value, other.address)
            for other, value in zip(siblings, values, strict=True)
            if other is not branch and not math.isnan(value)
        ]
        if not alike:
            return ""
        value, name = max(alike)
        return f"{value:z.2f} {name.removeprefix(branch.join + '/')}"

    def _summary(self) -> Text:
        measured = (f"{name} {value:.4g}" for name, value in self.metrics.items())
        left_out = ""
        if self.left_out:
            rows = [f"{row:,}" for row in self.left_out[:_MOST_NAMED]]
            rows += ["…"] * (len(self.left_out) > _MOST_NAMED)
            left_out = (
                f"\nLeft out: {len(self.left_out):,} rows with NaN or infinite "
                f"numbers, without a finite loss: {', '.join(rows)}."
            )
        return Text(
            f"{self.rows:,} rows; unchanged: {', '.join(measured)}. Changes of these "
            f"when a branch is permuted between rows ({self.repeats} times), zeroed, "
            "or its mean. width, norm: shares of the join. "
            + "parts: share of the attributions. "
            * self._attributed
            + f"most alike: linear CKA ({self.compared_rows:,} rows), 1 for the same "
            "up to a rotation." + left_out
        )


def _changes(branch: BranchImportance, metric: str) -> list[str]:
    change = branch.permuted[metric]
    spread = "" if math.isnan(change.spread) else f" ±{change.spread:.3f}"
    return [
        metric,
        f"{change.mean:+.3f}{spread}",
        f"{branch.zeroed[metric]:+.3f}",
        f"{branch.averaged[metric]:+.3f}",
    ]
