"""Figures of one value: its rows are read, and drawn as their shape asks for."""

import math
import operator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables, text, tree
from layertap.core.plan import Derived, Plan, described
from layertap.results.saved_rows import SavedRows
from layertap.results.statistics.gather import compute_statistics
from layertap.results.statistics.moments import Statistics
from layertap.results.training.selection import select_rows
from layertap.results.views import charts
from layertap.results.views.charts import Floats, Panel, Plot

# Numbers that are read for one figure.
_MOST_NUMBERS = 2**20
_MOST_CLASSES, _MOST_ROWS, _MOST_CHANNELS, _COLUMNS = 10, 8, 32, 8


@dataclass(frozen=True)
class _Rows:
    """Rows of a value in 64 bits, of maps with the channels along the last axis.

    A complex value has two parts, each with a name; any other has one without.
    """

    numbers: NDArray[np.intp]
    chosen: int
    parts: list[tuple[str, Floats]]
    discrete: bool

    @property
    def of(self) -> str:
        """How many rows these are, of how many that were chosen."""
        read = len(self.numbers)
        some = "" if read == self.chosen else f"{read:,} of "
        return some + text.counted(self.chosen, "row")


def value_figure(
    saved: SavedRows, address: str, rows: Any, statistics: Statistics | None
) -> Plot:
    """Returns the figure of a value; see `Saved.plot`."""
    with suppress(TypeError):
        rows = rows if isinstance(rows, bool) else [operator.index(rows)]
    chosen = range(saved.rows) if rows is None else select_rows(rows, saved.rows)
    array, summary = saved[address], rows is None
    pictures = array.ndim in (3, 4)
    found = _read(saved, address, chosen, few=pictures and not summary)
    shape = tables.shape((None, *array.shape[1:]))
    of = f"mean of {found.of}" if pictures and summary else found.of
    title = f"{_origin(saved.plan, address)}, {array.dtype.name} {shape}, {of}"
    if _is_padded(saved.plan, address):
        title += ", padded with zeros"
    if not len(chosen) or not math.prod(array.shape):
        return _blank(title, "no numbers" if len(chosen) else "no rows")
    if array.ndim == 3:
        return _sequences(title, found, summary)
    if array.ndim == 4:
        return _maps(title, found, summary)
    if not summary and array.ndim <= 2:
        return _each_row(title, found)
    classes = _classes(saved, found.numbers) if summary else []
    return _summary(title, found, classes, statistics if summary else None)


def _origin(plan: Plan, address: str) -> str:
    """Returns the name of a value, and where it comes from, in two lines."""
    planned = (*plan.values, *plan.derived)
    value = next(value for value in planned if value.address == address)
    effect = ""
    if isinstance(value, Derived):
        of = {"gradient": plan.gradients_of, "attribution": plan.attributions_of}
        target = text.shorten(described(of[value.kind] or "a target"), 30)
        effect = f" ({value.kind} of {target})"
    made_by = text.shorten(value.made_by, 40)
    model = text.shorten(plan.model, 30)
    return f"{text.shorten(address, 60)}{effect}, made by {made_by}\nmodel {model}"


def _is_padded(plan: Plan, address: str) -> bool:
    parts = plan.recipes[address].addresses if address in plan.recipes else ()
    return address in plan.padded or any(_is_padded(plan, part) for part in parts)


def _read(saved: SavedRows, address: str, chosen: Any, few: bool) -> _Rows:
    """Reads as many rows as fit into one figure, spread evenly over the chosen ones."""
    array = saved[address]
    fitting = max(_MOST_NUMBERS // max(math.prod(array.shape[1:]), 1), 1)
    places = charts.spread(len(chosen), _MOST_ROWS if few else fitting)
    numbers = np.array([chosen[place] for place in places], np.intp)
    read = array[numbers]
    if array.ndim in (3, 4) and address in saved.plan.channels_first:
        read = np.moveaxis(read, 1, -1)
    parts = [("", read)]
    if read.dtype.kind == "c":
        parts = [("real part", read.real), ("imaginary part", read.imag)]
    drawable = [(name, charts.to_drawable(part)) for name, part in parts]
    return _Rows(numbers, len(chosen), drawable, read.dtype.kind in "biu")


def _classes(saved: SavedRows, rows: NDArray[np.intp]) -> list[tuple[str, Any]]:
    """Returns which rows are of each class, if the labels are a few integers."""
    arrays = list(tree.leaves(saved.labels))
    if len(arrays) != 1 or arrays[0].dtype.kind not in "biu":
        return []
    if math.prod(arrays[0].shape[1:]) != 1:
        return []
    labels = arrays[0][rows].reshape(-1)
    numbers, names = np.unique(labels).tolist(), saved.class_names
    if not 1 < len(numbers) <= _MOST_CLASSES:
        return []
    named = [names[int(n)] if 0 <= n < len(names) else f"{n}" for n in numbers]
    return [
        (f"class {text.shorten(name, 24)}", labels == number)
        for name, number in zip(named, numbers, strict=True)
    ]


def _blank(title: str, why: str) -> Plot:
    figure = Plot(title)
    ax = figure.subplots()
    ax.set(xlabel="unit", ylabel="value", xticks=[], yticks=[])
    charts.write(ax, why)
    return figure


def _summary(
    title: str, rows: _Rows, classes: list[tuple[str, Any]], known: Statistics | None
) -> Plot:
    """Draws a histogram of all numbers, and the mean of each unit."""
    figure = Plot(title)
    left, right = figure.subplots(1, 2)
    groups = rows.parts
    if len(groups) == 1 and classes:
        groups = [(name, groups[0][1][places]) for name, places in classes]
    groups = [(name, part.reshape(-1)) for name, part in groups]
    charts.draw_histogram(left, groups, rows.discrete)
    axis = rows.parts[0][1].ndim - 1
    if not axis:
        charts.draw_lines(right, rows.numbers, rows.parts, "row")
    elif known is not None and known.axis is not None:
        charts.draw_units(right, [("", known)], "all rows")
    else:
        computed = [(name, compute_statistics(p, axis)) for name, p in rows.parts]
        charts.draw_units(right, computed, rows.of)
    return figure


def _each_row(title: str, rows: _Rows) -> Plot:
    """Draws numbers by row, a curve for each of a few rows, or a heat map of more."""
    figure = Plot(title)
    several = rows.parts[0][1].ndim == 2
    if several and len(rows.numbers) > _MOST_ROWS:
        panels = [Panel(part, name) for name, part in rows.parts]
        for ax in charts.draw_images(figure, panels, len(panels), ("unit", "row")):
            charts.name_ticks(ax.yaxis, rows.numbers)
        return figure
    lines = rows.parts
    if several:
        lines = [
            (_named(f"row {row:,}", name), part[place])
            for name, part in rows.parts
            for place, row in enumerate(rows.numbers)
        ]
    x = np.arange(len(lines[0][1])) if several else rows.numbers
    charts.draw_lines(figure.subplots(), x, lines, "unit" if several else "row")
    return figure


def _sequences(title: str, rows: _Rows, summary: bool) -> Plot:
    """Draws the mean of sequences, or each one, with the time from left to right."""
    panels = [
        Panel(image.T, _named(side, name))
        for name, part in rows.parts
        for side, image in _images(rows, part, summary)
    ]
    columns = math.ceil(math.sqrt(len(panels)))
    figure = Plot(title + _absent(rows, summary))
    charts.draw_images(figure, panels, columns, ("time step", "unit"))
    return figure


def _maps(title: str, rows: _Rows, summary: bool) -> Plot:
    """Draws the channels that vary most, of the mean or of each row."""
    count = rows.parts[0][1].shape[-1]
    most = min(_MOST_CHANNELS if summary else _COLUMNS, count)
    together = np.concatenate([part for _, part in rows.parts])
    variance = compute_statistics(together, 3).variance
    known = np.where(np.isnan(variance), -1, variance)
    channels = np.sort(np.argsort(-known, kind="stable")[:most])
    if most < count:
        title += f", the {most} of {count:,} channels that vary most"
    panels = [
        Panel(image[..., channel], _named(f"channel {channel}", name), side)
        for name, part in rows.parts
        for side, image in _images(rows, part, summary)
        for channel in channels
    ]
    columns = min(most, _COLUMNS)
    height, width = panels[0].image.shape
    aspect, tall = "auto", 5.0
    if max(height, width) <= 4 * min(height, width):
        cell = 7.5 / columns * height / width + 0.3
        aspect, tall = "equal", 1.2 + cell * math.ceil(len(panels) / columns)
    figure = Plot(title + _absent(rows, summary), min(max(tall, 3), 10))
    charts.draw_images(figure, panels, columns, ("width", "height"), aspect)
    return figure


def _images(rows: _Rows, part: Floats, summary: bool) -> list[tuple[str, Floats]]:
    """Returns the mean over the rows, of the finite numbers, or each row by name."""
    if not summary:
        return [(f"row {n:,}", one) for n, one in zip(rows.numbers, part, strict=True)]
    finite = np.isfinite(part)
    with np.errstate(all="ignore"):
        return [("", np.where(finite, part, 0).sum(0) / finite.sum(0))]


def _absent(rows: _Rows, summary: bool) -> str:
    """Returns which numbers a mean leaves out, in words."""
    return charts.absent([part for _, part in rows.parts]) if summary else ""


def _named(*names: str) -> str:
    return ", ".join(filter(None, names))
