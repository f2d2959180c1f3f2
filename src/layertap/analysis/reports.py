"""Reports on stores: of a verification, and of the difference of two."""

from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from layertap.analysis.comparison import Check, Compared, Comparison
from layertap.core import tables, text
from layertap.core.address import suggest
from layertap.errors import AddressError

# The most characters shown of a text that differs.
_LONGEST = 60


@dataclass
class Report(tables.Tabular):
    """The result of `layertap.verify`. True if nothing is wrong; printed, a table.

    Attributes:
        path: The store.
        rows: How many rows it has.
        checks: One check for each value, and one for each complete join.
        nonfinite: By address, how many NaN and infinities the checked rows have.
        other_inputs: How many of the recomputed rows have other inputs than the saved
            ones.
        missing: Why requested values are not in the store, by address: their joins are
            incomplete.
    """

    path: str
    rows: int
    checks: list[Check]
    nonfinite: dict[str, int] = field(default_factory=dict)
    other_inputs: int = 0
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is different or damaged."""
        return all(check.ok for check in self.checks)

    def __bool__(self) -> bool:
        return self.ok

    def to_json(self) -> dict[str, Any]:
        """Returns the report as data for JSON."""
        checks = [vars(check) for check in self.checks]
        return {**vars(self), "ok": self.ok, "checks": checks}

    def table(self) -> Table:
        """Returns the report as a table for `rich` to print."""
        title = text.printable(f"Verified {self.path}")
        table = tables.titled(title, self._summary())
        headings = ("address", "compared", "rows", "verdict", "largest difference")
        tables.add_columns(table, *headings, overflow="fold")
        for check in self.checks:
            verdict: str = check.verdict
            if check.damage:
                verdict += f", {check.files} file{'s' * (check.files != 1)}"
            elif check.first is not None:
                verdict += f", worst of its batch in row {check.first}"
            table.add_row(
                Text(check.address),
                check.what,
                f"{check.rows:,}",
                Text(verdict, style=_style(check)),
                f"{check.largest:.3g}" if check.largest else "0",
            )
        return table

    def _summary(self) -> str:
        count = sum(not check.ok for check in self.checks)
        lines = [f"{len(self.checks)} checks, {count} of them found something wrong."]
        lines += [
            f"{name} holds {n:,} NaN or infinite numbers."
            for name, n in self.nonfinite.items()
        ]
        if not self.ok and self.other_inputs:
            lines.append(
                f"{text.counted(self.other_inputs, 'row')} have other inputs than "
                "the saved ones: the data differ."
            )
        lines += [
            text.printable(f"{name} is missing: {why}.")
            for name, why in self.missing.items()
        ]
        damage = [line for check in self.checks for line in check.damage]
        return "\n".join([" ".join(lines), *damage])


@dataclass
class Difference(tables.Tabular):
    """The difference of two stores. True if nothing differs beyond rounding.

    Printed, it is a table.

    Attributes:
        paths: The two stores.
        rows: How many rows each has.
        compared: The comparisons, one for each address.
        alike: How many more addresses are made of those, in both in the same way.
        identity: The points in which the two runs differ: weights, backend, versions.
            They are for information: `ok` depends on the values.
        asked: The number of rows that `rows=` selected, or None for all.
        other_inputs: How many of the compared rows have other inputs; None without
            rows.
    """

    paths: tuple[str, str]
    rows: tuple[int, int]
    compared: list[Compared]
    alike: int
    identity: list[str]
    asked: int | None = None
    other_inputs: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs beyond rounding, and both have the same rows."""
        enough = self.asked is not None and min(self.rows) >= self.asked
        same_rows = enough or self.rows[0] == self.rows[1]
        return same_rows and all(comparison.ok for comparison in self.compared)

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, address: str) -> Compared:
        known = {comparison.address: comparison for comparison in self.compared}
        if address in known:
            return known[address]
        raise AddressError(
            f"Nothing was compared at {address!r}. "
            + suggest(address, known, what="address")
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the report as data for JSON."""
        compared = [comparison.to_json() for comparison in self.compared]
        return {**vars(self), "ok": self.ok, "compared": compared}

    def table(self) -> Table:
        """Returns the report as a table for `rich` to print."""
        a, b = (text.printable(path) for path in self.paths)
        table = tables.titled(f"A: {a}\nB: {b}", self._summary())
        table.add_column("address", overflow="fold")
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        tables.add_columns(table, "largest", "relative", "mean", justify="right")
        tables.add_columns(table, "where", "in A", "in B", overflow="fold")
        for comparison in self.compared:
            table.add_row(*_cells(comparison))
        return table

    def _summary(self) -> str:
        count = sum(not comparison.ok for comparison in self.compared)
        lines = [
            "Differences: the largest, the largest relative to the largest number of "
            "both, and the mean.",
            f"{len(self.compared)} compared, {count} of them differ beyond rounding.",
        ]
        if self.alike:
            lines[1] += f" {self.alike} more are made of those, alike in both."
        if self.rows[0] != self.rows[1]:
            lines.append(f"A has {self.rows[0]:,} rows, B {self.rows[1]:,}.")
        if self.other_inputs:
            weights = any(line.startswith("weights: ") for line in self.identity)
            reason = "" if weights else " The weights are the same: the data differ."
            lines.append(
                f"{text.counted(self.other_inputs, 'row')} were computed from other "
                f"inputs.{reason}"
            )
        elif self.other_inputs == 0:
            lines.append("All compared rows were computed from the same inputs.")
        only = [c.why for c in self.compared if c.why.startswith("only in ")]
        if len({*only}) > 1:
            lines.append("Renamed operations can be paired, each with its name in B.")
        return "\n".join([*lines, *self.identity])


def _cells(comparison: Compared) -> list[Text]:
    name, style = comparison.address, _style(comparison)
    if comparison.name_in_b not in ("", name):
        name += f"\nB: {comparison.name_in_b}"
    if comparison.why:
        reason = comparison.why.replace(", ", "\n")
        return [Text(name), Text(), Text(reason, style=style), *[Text()] * 6]
    verdict: list[str] = [comparison.verdict]
    if len(set(comparison.dtypes)) > 1:
        verdict.append(", ".join(map(str, comparison.dtypes)))
    if comparison.broken:
        verdict.append(f"{comparison.broken:,} not finite in one")
    where, values = "", ["", ""]
    if comparison.at is not None and comparison.values is not None:
        row, *place = comparison.at
        where = f"row {row:,}" + (f" at {', '.join(map(str, place))}" if place else "")
        values = [_shown(value) for value in comparison.values]
    return [
        Text(name),
        Text(f"{comparison.rows:,}"),
        Text("\n".join(verdict), style=style),
        Text(f"{comparison.largest:.3g}"),
        Text(f"{comparison.relative:.2g}"),
        Text(f"{comparison.mean:.3g}"),
        *map(Text, (where, *values)),
    ]


def _style(comparison: Comparison) -> str:
    return "green" if comparison.ok else "red"


def _shown(value: Any) -> str:
    shown = f"{value:.9g}" if isinstance(value, float) else text.printable(value)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"
