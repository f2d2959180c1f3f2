"""What is known of the numbers of a value: how large, how many zeros, what is broken.

Records only: no model and no Keras is needed to read them. Two records of other rows,
or of other units, make one of all of them, by the formulas of Chan, Golub and LeVeque
("Updating formulae and a pairwise algorithm for computing sample variances", 1979).
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MOMENTS = ("mean", "variance", "minimum", "maximum")
COUNTED = ("zeros", "nan", "inf")


@dataclass(frozen=True)
class Totals:
    """What is known of all numbers of a value together.

    Attributes:
        numbers: How many there are.
        mean: The mean of the finite ones; NaN if there are none, as all below.
        variance: Their variance.
        minimum: The smallest of them.
        maximum: The largest of them.
        zeros: How many are zero.
        nan: How many are NaN.
        inf: How many are infinite.
        units: How many units the value has.
        dead: How many of its units have the same finite number in all rows.
    """

    numbers: int
    mean: float
    variance: float
    minimum: float
    maximum: float
    zeros: int
    nan: int
    inf: int
    units: int
    dead: int

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return float(np.sqrt(self.variance))

    @property
    def share_of_zeros(self) -> float:
        """How many of all numbers are zero, from 0 to 1."""
        return self.zeros / self.numbers if self.numbers else 0.0


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of the numbers of a value, unit by unit.

    A *unit* is a position along the axis that the value's join joins along, the
    features as a rule; along the last axis where the join has no such axis. A value
    with one number a row is one unit; one with more than 32,768 units is described as
    if it were. Zeros that a value was padded with count. Whole numbers beyond 2**53 are
    rounded to floating ones.

    Attributes:
        axis: The axis of the units, or None if all numbers are one unit.
        count: How many numbers each unit has.
        mean: The mean of the finite numbers, by unit; NaN if there are none, as in the
            three that follow.
        variance: Their variance, the mean of the squared distances from the mean.
        minimum: The smallest of them.
        maximum: The largest of them.
        zeros: How many numbers are zero, by unit.
        nan: How many are NaN.
        inf: How many are infinite.
    """

    axis: int | None
    count: int
    mean: Floats
    variance: Floats
    minimum: Floats
    maximum: Floats
    zeros: Counts
    nan: Counts
    inf: Counts

    @classmethod
    def nothing(cls, axis: int | None, units: int) -> "Statistics":
        """Returns what is known of no numbers.

        Args:
            axis: The axis of the units.
            units: How many there are.
        """
        unknown, none = np.full(units, np.nan), np.zeros(units, np.int64)
        return cls(axis, 0, *[unknown] * 4, *[none] * 3)

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.mean)

    @property
    def finite(self) -> Counts:
        """How many numbers are finite, by unit."""
        return self.count - self.nan - self.inf

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Whether a unit has the same finite number in all rows."""
        dead: NDArray[np.bool_] = (self.minimum == self.maximum) & (
            self.finite == self.count
        )
        return dead

    @functools.cached_property
    def whole(self) -> "Statistics":
        """The same of all numbers together, as one unit."""
        return self.folded(None, (self.units, 1, 1))

    @property
    def total(self) -> Totals:
        """What is known of all numbers together."""
        whole = self.whole
        return Totals(
            whole.count,
            mean=float(whole.mean[0]),
            variance=float(whole.variance[0]),
            minimum=float(whole.minimum[0]),
            maximum=float(whole.maximum[0]),
            zeros=int(whole.zeros[0]),
            nan=int(whole.nan[0]),
            inf=int(whole.inf[0]),
            units=self.units,
            dead=int(self.dead.sum()),
        )

    @classmethod
    def joined(cls, axis: int | None, parts: "Sequence[Statistics]") -> "Statistics":
        """Returns the same of the units of several, one after the other.

        Args:
            axis: The axis of the units.
            parts: Of as many numbers each.
        """
        if len(parts) == 1 and parts[0].axis == axis:
            return parts[0]
        names = (*MOMENTS, *COUNTED)
        units = (np.concatenate([getattr(p, name) for p in parts]) for name in names)
        return cls(axis, parts[0].count, *units)

    def folded(self, axis: int | None, form: tuple[int, int, int]) -> "Statistics":
        """Returns the same of fewer units, each of several of these.

        Args:
            axis: The axis of the units.
            form: The shape that the units have; those of its second axis remain.
        """
        with np.errstate(all="ignore"):
            n, mean, variance = (
                part.reshape(form) for part in (self.finite, self.mean, self.variance)
            )
            all_n = n.sum((0, 2))
            sums = np.where(n, n * mean, 0).sum((0, 2))
            means = sums / all_n
            apart = variance + (mean - means[:, None]) ** 2
            squares = np.where(n, n * apart, 0).sum((0, 2))
            return sound(
                axis,
                self.count * form[0] * form[2],
                means,
                squares / all_n,
                np.fmin.reduce(self.minimum.reshape(form), (0, 2)),
                np.fmax.reduce(self.maximum.reshape(form), (0, 2)),
                *(getattr(self, name).reshape(form).sum((0, 2)) for name in COUNTED),
            )

    def merged(self, other: "Statistics") -> "Statistics":
        """Returns the same of the numbers of both, which have the same units."""
        with np.errstate(all="ignore"):
            n, more = self.finite, other.finite
            both = n + more
            apart = other.mean - self.mean
            mean = self.mean + apart * (more / both)
            squares = n * self.variance + more * other.variance
            squares = squares + apart**2 * (n * (more / both))
            one, none = more == 0, n == 0
            return sound(
                self.axis,
                self.count + other.count,
                np.where(one, self.mean, np.where(none, other.mean, mean)),
                np.where(
                    one, self.variance, np.where(none, other.variance, squares / both)
                ),
                np.fmin(self.minimum, other.minimum),
                np.fmax(self.maximum, other.maximum),
                *(getattr(self, name) + getattr(other, name) for name in COUNTED),
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as data for JSON, which has no NaN: None for it."""
        units = {
            name: [n if np.isfinite(n) else None for n in getattr(self, name).tolist()]
            for name in MOMENTS
        } | {name: getattr(self, name).tolist() for name in COUNTED}
        total = {
            name: n if np.isfinite(n) else None for name, n in vars(self.total).items()
        }
        return {
            "axis": self.axis,
            "count": self.count,
            "total": total,
            "by unit": units,
        }


def sound(axis: int | None, count: int, *parts: Any) -> Statistics:
    """Returns statistics that are exact where a unit has one number only.

    Args:
        axis: The axis of the units.
        count: How many numbers each has.
        parts: What else there is to `Statistics`, in its order.
    """
    mean, variance, minimum, maximum, *counts = parts
    same = minimum == maximum
    mean, variance = np.where(same, minimum, mean), np.where(same, 0.0, variance)
    return Statistics(axis, count, mean, variance, minimum, maximum, *counts)
