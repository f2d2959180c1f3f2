"""Comparisons at one address: of saved and recomputed rows, or of two stores."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.core import text, tolerance
from layertap.errors import StoreError

Array = NDArray[Any]
Verdict = tolerance.Verdict | Literal["damaged"]

# From good to bad.
_ORDER: tuple[Verdict, ...] = ("identical", "within rounding", "different", "damaged")
# The most damaged files of an array that are described.
_MOST_DESCRIBED = 20


@dataclass
class Comparison:
    """The result of a comparison at one address, with its worst grade.

    Attributes:
        address: The address.
        rows: How many rows were compared.
        verdict: The worst grade of all of them.
        largest: The largest absolute difference.
    """

    address: str
    rows: int = 0
    verdict: Verdict = "identical"
    largest: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged, or differs beyond rounding."""
        return self.verdict in ("identical", "within rounding")

    def _grade(self, verdict: Verdict) -> None:
        self.verdict = max(self.verdict, verdict, key=_ORDER.index)


@dataclass
class Check(Comparison):
    """A check of one saved value, or of one join at the address of its output.

    Attributes:
        what: The compared values: saved and recomputed, for example.
        first: The first row that is different, or None.
        files: How many of its files are damaged.
        damage: A description of the damage, file by file, with the rows in it.
    """

    what: str = ""
    first: int | None = None
    files: int = 0
    damage: list[str] = field(default_factory=list)

    def add(
        self,
        row: int,
        saved: Array,
        fresh: Array,
        computed: str | None = None,
        least: float = 0.0,
    ) -> None:
        """Compares further rows, from `row` on; see `tolerance.compare`."""
        self.rows += len(saved)
        verdict = tolerance.compare(saved, fresh, computed, least)
        self._grade(verdict)
        if verdict == "identical":
            return
        worst = 0
        if saved.shape != fresh.shape or saved.dtype != fresh.dtype:
            self.largest = np.inf
        else:
            distances = tolerance.distance(saved, fresh).reshape(len(saved), -1)
            self.largest = max(self.largest, float(distances.max()))
            worst = int(distances.max(axis=1).argmax())
        if verdict == "different" and self.first is None:
            self.first = row + worst

    def judge(self, row: int, missed: Array, allowed: Array) -> None:
        """Grades what further rows, from `row` on, miss: at most so much is allowed."""
        self.rows += len(missed)
        self.largest = max(self.largest, float(missed.max(initial=0)))
        wrong = ~(missed <= allowed)
        self._grade("different" if wrong.any() else "within rounding")
        if wrong.any() and self.first is None:
            self.first = row + int(np.flatnonzero(wrong)[0])

    def add_damage(self, rows: range, damage: StoreError | None) -> None:
        """Counts rows that were read, and describes their damage, if any."""
        self.rows += len(rows)
        if damage is None:
            return
        self._grade("damaged")
        self.first = rows[0] if rows and self.first is None else self.first
        self.files += 1
        if self.files <= _MOST_DESCRIBED:
            self.damage.append(text.printable(damage))


@dataclass
class Compared(Comparison):
    """The comparison of two stores at one address, or at `labels`, `ids`, `lengths`.

    Numbers of different dtypes are compared in 64 bits, and are identical if equal. A
    number is infinitely far from NaN and from infinities.

    Attributes:
        dtypes: The dtype in the first and in the second store; None for a missing one.
        name_in_b: The address in the second store; empty if it has none.
        why: What differs besides numbers: the address is in one store only, or the
            shapes differ. Then no rows are compared. Else empty.
        at: The place of the largest difference: the row, and the place in it; None if
            nothing differs.
        values: The values of both stores there.
        mean: The mean of the finite absolute differences.
        scale: The largest finite number of both.
        broken: How many numbers are infinitely far from those of the other store.
    """

    dtypes: tuple[str | None, str | None] = (None, None)
    name_in_b: str = ""
    why: str = ""
    at: tuple[int, ...] | None = None
    values: tuple[Any, Any] | None = None
    mean: float = 0.0
    scale: float = 0.0
    broken: int = 0

    @property
    def relative(self) -> float:
        """The largest difference, as a share of the largest number of both."""
        return self.largest / self.scale if self.scale else self.largest

    def add(self, row: int, first: Array, second: Array, share: float) -> None:
        """Compares further rows, from `row` on, of real or complex numbers.

        `share` is the tolerance, relative to the largest number of a row.
        """
        distances = tolerance.distance(first, second)
        finite = np.isfinite(distances)
        total = float(distances.sum(where=finite)) * len(first) / max(distances.size, 1)
        self.mean = (self.mean * self.rows + total) / (self.rows + len(first))
        self.rows += len(first)
        self.broken += int(distances.size - finite.sum())
        for part in (first, second):
            sizes = np.abs(tolerance.wide(part))
            largest = np.max(sizes, initial=0, where=np.isfinite(sizes))
            self.scale = max(self.scale, float(largest))
        exact = first.dtype.kind in "biu" and second.dtype.kind in "biu"
        unequal = first != second if exact else distances > 0
        if not unequal.any():
            same = first.dtype != second.dtype or first.tobytes() == second.tobytes()
            # Zeros of two signs, or NaN of two kinds.
            self._grade("identical" if same else "within rounding")
            return
        close = not exact and tolerance.within(distances, second, share)
        self._grade("within rounding" if close else "different")
        # Unequal integers can be equal in 64 bits.
        farthest = np.argmax(np.where(unequal, distances, -1))
        at = np.unravel_index(farthest, distances.shape)
        if self.at is None or distances[at] > self.largest:
            self.largest = float(distances[at])
            self.at = (row + int(at[0]), *map(int, at[1:]))
            self.values = (first[at].item(), second[at].item())

    def add_texts(self, row: int, first: Array, second: Array) -> None:
        """Compares further rows of texts, from `row` on."""
        self.rows += len(first)
        unequal = np.flatnonzero(first != second)
        if len(unequal) and self.at is None:
            place = int(unequal[0])
            self._grade("different")
            self.at = (row + place,)
            self.values = (str(first[place]), str(second[place]))

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as data for JSON, with text for NaN and infinities.

        Numbers are None where no rows could be compared.
        """
        data = {**vars(self), "relative": self.relative}
        if self.why:
            data |= dict.fromkeys(("largest", "relative", "mean", "scale"))
        return {name: _json(part) for name, part in data.items()}


def _json(part: Any) -> Any:
    if isinstance(part, tuple):
        return [_json(member) for member in part]
    if isinstance(part, complex) or (isinstance(part, float) and not np.isfinite(part)):
        return str(part)
    return part
