"""The course of values over the steps of a training: statistics and similarity."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from layertap.core import tables, text
from layertap.results.statistics.moments import Totals

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Course:
    """The statistics of one value over the steps: arrays with one number per step.

    Attributes:
        steps: The steps that have the value, int64 of shape `(steps,)`.
        mean: The mean of its finite numbers, float64; NaN without any.
        deviation: Their standard deviation.
        zeros: The share of zeros among its numbers, from 0 to 1.
        dead: How many units have the same finite number in all rows, int64.
        units: How many units it has.
        nan: How many of its numbers are NaN.
        inf: How many are infinite.
    """

    steps: Integers
    mean: Floats
    deviation: Floats
    zeros: Floats
    dead: Integers
    units: Integers
    nan: Integers
    inf: Integers

    @classmethod
    def of(cls, totals: Mapping[int, Totals]) -> "Course":
        """Returns the course of the statistics of each step."""

        def column(name: str, dtype: Any) -> NDArray[Any]:
            return np.array([getattr(t, name) for t in totals.values()], dtype)

        floats = ("mean", "deviation", "share_of_zeros")
        return cls(
            np.array([*totals], np.int64),
            *(column(name, np.float64) for name in floats),
            *(column(name, np.int64) for name in ("dead", "units", "nan", "inf")),
        )

    @property
    def first_nan(self) -> int | None:
        """The first step with NaN, or None."""
        found = self.steps[self.nan > 0]
        return int(found[0]) if len(found) else None

    def to_json(self) -> dict[str, Any]:
        """Returns the course as data for JSON, with None for NaN."""
        return tables.finite(
            {name: array.tolist() for name, array in vars(self).items()}
        )


class Courses(Mapping[str, Course], tables.Tabular):
    """The courses of all values by address; it prints as a table."""

    def __init__(self, courses: Mapping[str, Course]) -> None:
        self._courses = courses

    def __getitem__(self, address: str) -> Course:
        return self._courses[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._courses)

    def __len__(self) -> int:
        return len(self._courses)

    @property
    def first_nan(self) -> tuple[int, list[str]] | None:
        """The first step with NaN and the values that have it there, or None.

        The values are in the order of the plan, which is that of the computation.
        """
        firsts = {name: course.first_nan for name, course in self.items()}
        step = min((s for s in firsts.values() if s is not None), default=None)
        if step is None:
            return None
        return step, [name for name, first in firsts.items() if first == step]

    def table(self) -> Table:
        """Returns a table of the first and the last step of each value."""
        rows = tables.titled(
            "Values over the training", "From the first step to the last."
        )
        tables.add_columns(rows, "address", overflow="fold")
        headings = (
            "steps",
            "mean",
            "deviation",
            "zeros",
            "dead units",
            "NaN from step",
        )
        tables.add_columns(rows, *headings, justify="right", no_wrap=True)
        for name, course in self.items():
            first, dead = course.first_nan, course.dead
            rows.add_row(
                Text(text.printable(name)),
                Text(f"{len(course.steps):,}"),
                Text(_change(course.mean, ".4g")),
                Text(_change(course.deviation, ".4g")),
                Text(_change(course.zeros, ".1%")),
                Text(
                    f"{_change(dead, ',')} of {course.units[-1]:,}",
                    style="yellow" if dead[-1] else "dim",
                ),
                Text("-", style="dim") if first is None else Text(f"{first:,}", "red"),
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Returns the courses as data for JSON, by address."""
        return {name: course.to_json() for name, course in self.items()}


@dataclass(frozen=True, eq=False)
class Similarity:
    """How similar one value is between steps: unbiased linear CKA.

    Attributes:
        steps: The steps, int64 of shape `(steps,)`.
        to_previous: The similarity to the step before, float64; NaN at the first step.
        to_last: The similarity to the last step; 1 at the last step.
    """

    steps: Integers
    to_previous: Floats
    to_last: Floats


def _change(numbers: NDArray[Any], form: str) -> str:
    """Formats the first and the last of some numbers."""
    first, last = format(numbers[0], form), format(numbers[-1], form)
    return last if first == last else f"{first} → {last}"
