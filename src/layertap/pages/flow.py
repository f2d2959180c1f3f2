"""Draws the joins of a model, each with its branches on their way to it."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from layertap.core import text
from layertap.pages.drawing import COLOURS
from layertap.pages.facts import MOST_BRANCHES, JoinFacts, PageFacts

# The joins that are open at first.
_OPEN = 3
_GREY = "#7f7f7f"
# The most characters of a name in a table, in a drawing, and in a line of it.
_LONGEST, _LONGEST_DRAWN, _LINE = 40, 24, 16


def flow(page: PageFacts, most: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns the first joins as the model runs them; nested models are together.

    Each part is the path of the nested model, or nothing, and the joins.
    """
    numbered = list(enumerate(page.joins[:most]))
    groups = itertools.groupby(numbered, lambda pair: _nested(pair[1].join.path))
    return [
        (text.printable(nested), [_join(facts, page, n < _OPEN) for n, facts in joins])
        for nested, joins in groups
    ]


def _nested(path: str) -> str:
    """Returns the outermost model or layer that has a join inside, or nothing."""
    outermost, inside, _ = path.partition("/")
    return outermost if inside else ""


def _join(facts: JoinFacts, page: PageFacts, opened: bool) -> dict[str, Any]:
    more = len(facts.names) - MOST_BRANCHES
    shown = facts.names[:MOST_BRANCHES]
    drawn = ribbons(facts, page)
    # Longer names have two lines.
    lines = 1.4 if any(len(ribbon.name) > _LINE for ribbon in drawn) else 1
    axis = "" if facts.join.axis is None else f", axis {facts.join.axis}"
    return {
        "path": facts.join.path,
        "end": text.shorten(facts.join.path, _LONGEST_DRAWN),
        "kind": facts.join.kind + axis,
        "count": "1 branch"
        if len(facts.names) == 1
        else f"{len(facts.names):,} branches",
        "open": opened,
        "ribbons": drawn,
        "height": round(len(drawn) * lines, 1),
        "strips": strips(facts),
        "more": f"{more} more branches are not drawn." if more > 0 else "",
        "cells": matrix(facts) if len(facts.names) > 1 else [],
        "names": [text.shorten(name, _LONGEST) for name in shown],
        "size": len(shown),
    }


@dataclass(frozen=True)
class Part:
    """The share of a branch in a strip: its place and width from 0 to 1."""

    x: float
    width: float
    words: str
    colour: str


@dataclass(frozen=True)
class Strip:
    """What each branch has of something that a join has: shares in one line."""

    name: str
    parts: list[Part]


def strips(facts: JoinFacts) -> list[Strip]:
    """Returns the shares of the branches in the numbers, the norm and more.

    Of many branches, those that are not drawn are one grey part.
    """
    known = [("numbers", facts.numbers), ("norm", facts.norm)]
    if facts.attribution is not None:
        known.append(("attribution", facts.attribution))
    if facts.importance is not None:
        known.append(("importance", facts.importance))
    return [Strip(name, _parts(facts, name, shares)) for name, shares in known]


def _parts(facts: JoinFacts, name: str, shares: list[float]) -> list[Part]:
    found, left = [], 0.0
    for place, (branch, share) in enumerate(zip(facts.names, shares, strict=True)):
        width = 0.0 if math.isnan(share) else share
        if place < MOST_BRANCHES:
            words = f"{branch}: {_percent(share)} of the {name}"
            found.append(Part(left, width, words, COLOURS[place % len(COLOURS)]))
        left += width
    more = len(facts.names) - MOST_BRANCHES
    if more > 0:
        drawn = sum(part.width for part in found)
        found.append(Part(drawn, left - drawn, f"{more} more branches", _GREY))
    return found


def _percent(share: float) -> str:
    return "?" if math.isnan(share) else f"{share:.0%}"


def estimate(number: float, error: float) -> str:
    """Returns a number with its standard error, if these are known."""
    known = f" ± {error:.3f}" if math.isfinite(error) else ""
    return f"{number:.3f}{known}" if math.isfinite(number) else "?"


@dataclass(frozen=True)
class Ribbon:
    """A branch on its way to a join: its ends from 0 to 1, its words and colour."""

    path: str
    top: float
    height: float
    name: str
    words: str
    colour: str


def ribbons(facts: JoinFacts, page: PageFacts) -> list[Ribbon]:
    """Returns the branches of a join, as wide as their share in the norm."""
    widths = [0.0 if math.isnan(share) else share for share in facts.norm]
    if not sum(widths):
        widths = facts.numbers
    made_by = {value.address: value.made_by for value in page.values}
    shown = list(zip(facts.names, widths, strict=True))[:MOST_BRANCHES]
    gap = 0.5 / max(len(shown), 1)
    total = sum(width for _, width in shown) or 1.0
    found, left, right = [], 0.0, 0.25
    for place, (name, width) in enumerate(shown):
        height, place_height = width / total * 0.5, gap
        middle = left + (place_height + height) / 2
        top, bottom = middle - height / 2, middle + height / 2
        end = right + height
        path = (
            f"M0 {top:.4f}C.5 {top:.4f} .5 {right:.4f} 1 {right:.4f}V{end:.4f}"
            f"C.5 {end:.4f} .5 {bottom:.4f} 0 {bottom:.4f}z"
        )
        parts = [f"{_percent(facts.numbers[place])} of the numbers"]
        parts.append(f"{_percent(facts.norm[place])} of the norm")
        if facts.attribution is not None:
            parts.append(f"{_percent(facts.attribution[place])} of the attribution")
        words, colour = ", ".join(parts), COLOURS[place % len(COLOURS)]
        shown_name = text.shorten(made_by[name], _LONGEST_DRAWN)
        found.append(Ribbon(path, middle, height, shown_name, words, colour))
        left, right = left + place_height + height, end
    return found


@dataclass(frozen=True)
class Cell:
    """The similarity of two branches, from 0 to 1 where it is known."""

    x: int
    y: int
    shade: float
    text: str
    words: str


def matrix(facts: JoinFacts) -> list[Cell]:
    """Returns the cells of the similarity of the first branches of a join."""
    names = facts.names[:MOST_BRANCHES]
    found = []
    for y, one in enumerate(names):
        for x, other in enumerate(names):
            share, error = facts.similarity[y, x], facts.uncertainty[y, x]
            known = math.isfinite(share)
            shown = f"{share:.2f}" if known else "?"
            words = f"{one} and {other}: {estimate(share, error)}" if known else "?"
            shade = min(max(float(share), 0.0), 1.0) if known else 0.0
            found.append(Cell(x, y, shade, shown, words))
    return found
