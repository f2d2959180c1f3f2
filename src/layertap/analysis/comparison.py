"""What differs between two stores: what was found, and how it is shown."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from layertap.core import tables, text, tolerance
from layertap.core.address import suggest
from layertap.core.tolerance import Verdict
from layertap.errors import AddressError

# Of a text that differs, so much is shown.
_LONGEST = 60

_ORDER: tuple[Verdict, ...] = ("identical", "within rounding", "different")


@dataclass
class Compared:
    """What two stores have at one address.

    Attributes:
        address: The address; or `labels`, `ids` or `lengths`, where they are kept.
        rows: How many rows were compared.
        verdict: The worst grade of all of them. Numbers of different dtypes are
            compared in 64 bits, and `"identical"` if all are equal.
        dtypes: The dtype in the first store, and in the second; None where it is not.
        why: What is different besides numbers: that it is in one store only, or that
            the shapes are not the same. Then no rows are compared. Else empty.
        largest: The largest absolute difference; infinite if a number is NaN or
            infinite in one of them and another one in the other.
        at: Where that is: the row, and the place in it; None if nothing differs.
        values: What the two have there.
        mean: The mean of the finite absolute differences.
        scale: The largest finite number of both.
        broken: How many numbers are infinitely far from those of the other.
    """

    address: str
    rows: int = 0
    verdict: Verdict = "identical"
    dtypes: tuple[str | None, str | None] = (None, None)
    why: str = ""
    largest: float = 0.0
    at: tuple[int, ...] | None = None
    values: tuple[Any, Any] | None = None
    mean: float = 0.0
    scale: float = 0.0
    broken: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing differs beyond rounding."""
        return self.verdict != "different"

    @property
    def relative(self) -> float:
        """The largest difference, as a share of the largest number of both."""
        return self.largest / self.scale if self.scale else self.largest

    def add(
        self, row: int, one: NDArray[Any], other: NDArray[Any], share: float
    ) -> None:
        """Compares some more rows, the first of which is `row`.

        Args:
            row: Its number.
            one: What the first store has, real or complex numbers.
            other: What the second one has, of the same shape.
            share: What is rounding, as a share of the largest number of a row.
        """
        before, self.rows = self.rows, self.rows + len(one)
        apart = tolerance.distance(one, other)
        finite = np.isfinite(apart)
        total = float(apart.sum(where=finite)) * len(one) / max(apart.size, 1)
        self.mean = (self.mean * before + total) / self.rows
        self.broken += int(apart.size - finite.sum())
        sizes = (np.abs(tolerance.wide(part)) for part in (one, other))
        scales = (np.max(s, initial=0, where=np.isfinite(s)) for s in sizes)
        self.scale = max(self.scale, *map(float, scales))
        exact = one.dtype.kind in "biu" and other.dtype.kind in "biu"
        unlike = one != other if exact else apart > 0
        if not unlike.any():
            alike = one.dtype != other.dtype or one.tobytes() == other.tobytes()
            # Zeros of two signs, or NaN of two kinds.
            self._worse("identical" if alike else "within rounding")
            return
        close = not exact and tolerance.within(apart, other, share)
        self._worse("within rounding" if close else "different")
        # Whole numbers can be unlike, and in 64 bits the same.
        at = np.unravel_index(np.argmax(np.where(unlike, apart, -1)), apart.shape)
        if self.at is None or apart[at] > self.largest:
            self.largest = float(apart[at])
            self.at = (row + int(at[0]), *map(int, at[1:]))
            self.values = (one[at].item(), other[at].item())

    def add_texts(self, row: int, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Compares some more rows of texts, the first of which is `row`.

        Args:
            row: Its number.
            one: The texts of the first store.
            other: Those of the second one.
        """
        self.rows += len(one)
        unlike = np.flatnonzero(one != other)
        if len(unlike) and self.at is None:
            first = int(unlike[0])
            self._worse("different")
            self.at, self.values = (row + first,), (str(one[first]), str(other[first]))

    def _worse(self, verdict: Verdict) -> None:
        self.verdict = max(self.verdict, verdict, key=_ORDER.index)

    def to_json(self) -> dict[str, Any]:
        """Returns what was found, as data for JSON; what is not finite as a text."""
        found = {**vars(self), "relative": self.relative}
        return {name: _plain(part) for name, part in found.items()}


@dataclass
class Difference:
    """How two stores differ. True if nothing does beyond rounding; printed, a table.

    Attributes:
        paths: The two stores.
        rows: How many rows each has.
        compared: What was found, by address.
        alike: How many more addresses are made of those, in both in the same way.
        identity: In what the two runs differ, both sides: weights, backend, versions.
            For information: it is the values that are compared.
        asked: How many rows were asked for, or None for all.
    """

    paths: tuple[str, str]
    rows: tuple[int, int]
    compared: list[Compared]
    alike: int
    identity: list[str]
    asked: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs beyond rounding, and both have the same rows."""
        return self._same_rows and all(each.ok for each in self.compared)

    @property
    def _same_rows(self) -> bool:
        enough = self.asked is not None and min(self.rows) >= self.asked
        return enough or self.rows[0] == self.rows[1]

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, address: str) -> Compared:
        for each in self.compared:
            if each.address == address:
                return each
        known = [each.address for each in self.compared]
        raise AddressError(
            f"Nothing was compared at {address!r}. "
            + suggest(address, known, what="address")
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the report as data for JSON."""
        return {
            "paths": list(self.paths),
            "rows": list(self.rows),
            "ok": self.ok,
            "compared": [each.to_json() for each in self.compared],
            "alike": self.alike,
            "identity": self.identity,
        }

    def __rich__(self) -> Table:
        a, b = (text.printable(path) for path in self.paths)
        table = Table(
            title=Text(f"A: {a}\nB: {b}"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("address", overflow="fold")
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for heading in ("largest", "relative", "mean"):
            table.add_column(heading, justify="right")
        for heading in ("where", "in A", "in B"):
            table.add_column(heading, overflow="fold")
        for each in self.compared:
            table.add_row(*_cells(each))
        count = sum(not each.ok for each in self.compared)
        lines = [
            "Differences: the largest, the same beside the largest number of both, and "
            "the mean.",
            f"{len(self.compared)} compared, {count} of them differ beyond rounding.",
        ]
        if self.alike:
            lines[1] += f" {self.alike} more are made of those, alike in both."
        if self.rows[0] != self.rows[1]:
            lines.append(f"A has {self.rows[0]:,} rows, B {self.rows[1]:,}.")
        lines += self.identity
        table.caption = Text("\n".join(lines))
        table.caption_justify = "left"
        return table

    def __str__(self) -> str:
        return tables.plain(self)

    def _repr_html_(self) -> str:
        return tables.html(self)


def _cells(each: Compared) -> list[Text]:
    style = "green" if each.ok else "red"
    verdict = [each.verdict, *each.why.split(", ")]
    if each.dtypes[0] != each.dtypes[1] and not each.why:
        verdict.append(f"{each.dtypes[0]}, {each.dtypes[1]}")
    if each.broken:
        verdict.append(f"{each.broken:,} not finite in one")
    where, values = "", ["", ""]
    if each.at is not None and each.values is not None:
        where = f"row {each.at[0]:,}" + _place(each.at[1:])
        values = [_shown(value) for value in each.values]
    return [
        Text(each.address),
        Text(f"{each.rows:,}"),
        Text("\n".join(filter(None, verdict)), style=style),
        Text(f"{each.largest:.3g}"),
        Text(f"{each.relative:.2g}"),
        Text(f"{each.mean:.3g}"),
        *map(Text, (where, *values)),
    ]


def _place(index: tuple[int, ...]) -> str:
    return f" at {', '.join(map(str, index))}" if index else ""


def _shown(value: Any) -> str:
    shown = f"{value:.9g}" if isinstance(value, float) else text.printable(value)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"


def _plain(part: Any) -> Any:
    """Returns something as JSON takes it."""
    if isinstance(part, tuple):
        return [_plain(member) for member in part]
    if isinstance(part, complex) or (isinstance(part, float) and not np.isfinite(part)):
        return str(part)
    return part
