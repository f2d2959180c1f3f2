"""Displays of values: their plan, the arrays along with them, and their histograms."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from rich.text import Text

from layertap.core import tables
from layertap.core.display import html, sample
from layertap.core.plan import Plan

# How many arrays, names and reasons are listed.
_MOST = 8
_MAPS = "of row 0, each from its least number (black) to its largest (white)"


class Planned(Protocol):
    """Values with their plan, in memory or on disk."""

    plan: Plan
    labels: Any
    sample_weight: Any

    @property
    def ids(self) -> Any:
        """The ids of the rows, or None."""

    @property
    def rows(self) -> int:
        """The number of rows."""

    @property
    def missing(self) -> Mapping[str, str]:
        """Why requested values can't be captured, by address."""


def display(values: Planned) -> str:
    """Returns the display of values in memory."""
    facts: list[html.Fact] = [("rows", f"{values.rows:,}")]
    facts += along("labels", values.labels)
    facts += along("sample weights", values.sample_weight)
    facts += along("ids", values.ids)
    return planned(values, "layertap.Values", facts, {}, sample.thinned(values))


def planned(
    values: Planned,
    heading: str,
    facts: list[html.Fact],
    more: Mapping[str, Mapping[str, Any]],
    sampled: Mapping[str, Any],
) -> str:
    """Returns a display of facts and the table of a plan, with more columns by address.

    The last column has the histograms of `sampled`, which are rows of these values.
    """
    plan = replace(values.plan, refused=())
    pictures = sample.histograms(sampled, plan.known, values.rows)
    more = {**more, "histogram": pictures} if pictures else more
    table = plan.table(values.rows, more)
    table.title = Text(f"Values of {plan.model}")
    return html.display(table, heading, [*facts, *named("missing", values.missing)])


def along(name: str, structure: Any) -> Iterator[html.Fact]:
    """Yields a fact about labels, weights or ids: their names, shapes and dtypes."""
    leaves = [*islice(_named_leaves(structure), _MOST + 1)]
    shown = [
        f"{key}{': ' if key else ''}{tables.shape((None, *np.shape(array)[1:]))} "
        f"{getattr(array, 'dtype', type(array).__name__)}"
        for key, array in leaves
    ]
    if shown:
        yield name, "\n".join([*shown[:_MOST], *["…"] * (len(shown) > _MOST)])


def named(
    name: str, reasons: Mapping[str, str], style: str = "red"
) -> Iterator[html.Fact]:
    """Yields a fact about names, each with its reason."""
    lines = [f"{key}: {reason}" for key, reason in islice(reasons.items(), _MOST)]
    if len(reasons) > _MOST:
        lines.append(f"and {len(reasons) - _MOST:,} more")
    if lines:
        yield name, Text("\n".join(lines), style)


def array(heading: str, shown: Any, facts: Iterable[tuple[str, str]]) -> str:
    """Returns the display of one array that is read when it is indexed."""
    pictures = sample.maps_of(shown)
    picture = sample.of_array(lambda: shown, len(shown))
    all_facts: list[html.Fact] = [
        ("rows", f"{len(shown):,}"),
        ("shape", tables.shape((None, *shown.shape[1:]))),
        ("dtype", str(shown.dtype)),
        *facts,
    ]
    if picture is not None:
        all_facts += [("histogram", picture), ("", picture.label)]
    if pictures:
        all_facts += [("maps", pictures), ("", _MAPS)]
    return html.display(None, heading, all_facts)


def _named_leaves(structure: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of a structure with their keys."""
    if isinstance(structure, Mapping | list | tuple):
        members = (
            structure.items()
            if isinstance(structure, Mapping)
            else enumerate(structure)
        )
        for key, member in members:
            yield from _named_leaves(member, f"{name}/{key}" if name else str(key))
    elif structure is not None:
        yield name, structure
