"""Charts on Matplotlib's axes, without pyplot: histograms, lines and images."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.core import text
from layertap.core.optional import require
from layertap.results.statistics.moments import Statistics

matplotlib: Any = require("matplotlib", "plot", "A plot")
figures: Any = require("matplotlib.figure", "plot", "A plot")
agg: Any = require("matplotlib.backends.backend_agg", "plot", "A plot")
ticker: Any = require("matplotlib.ticker", "plot", "A plot")

Floats = NDArray[np.float64]
Groups = Sequence[tuple[str, Floats]]

# By Okabe and Ito: readers with any kind of colour vision distinguish them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Characters of a line of the title.
_TITLE = 120
# Points of one line, few enough points to see each, bars, and bins.
_MOST_POINTS, _FEW_POINTS, _MOST_BARS, _BINS = 4096, 64, 50, 50
# Matplotlib computes squares of the numbers that it draws.
_LARGEST, _SMALLEST = 1e150, 1e-150


class Plot(figures.Figure):
    """A figure without pyplot: it opens no window, and a notebook shows it."""

    def __init__(self, title: str, height: float = 5) -> None:
        super().__init__(figsize=(10, height), dpi=100, layout="constrained")
        agg.FigureCanvasAgg(self)
        lines = [textwrap.fill(line, _TITLE) for line in title.splitlines()]
        # A name is text, also with the signs of formulas.
        self.suptitle("\n".join(lines), parse_math=False, fontsize="medium")

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


class Panel(NamedTuple):
    """An image, with a title above and one at its left side."""

    image: Floats
    title: str = ""
    side: str = ""


def spread(count: int, most: int) -> NDArray[np.intp]:
    """Returns at most so many places of `count`, spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.intp)


def to_drawable(numbers: Any) -> Floats:
    """Returns numbers in 64 bits; those beyond 1e150 as infinite."""
    with np.errstate(all="ignore"):
        wide = np.asarray(numbers).astype(np.float64)
        return np.where(np.abs(wide) > _LARGEST, np.copysign(np.inf, wide), wide)


def absent(parts: Sequence[Floats]) -> str:
    """Returns the shares of NaN and of infinite numbers in words, if there are any."""
    numbers = np.concatenate([part.reshape(-1) for part in parts])
    shares = {"NaN": np.isnan(numbers), "infinite": np.isinf(numbers)}
    return "".join(f", {np.mean(s):.1%} {n}" for n, s in shares.items() if s.any())


def draw_histogram(ax: Any, groups: Groups, discrete: bool) -> None:
    """Draws the histogram of each group, or bars for a few integers."""
    together = np.concatenate([part for _, part in groups])
    finite = together[np.isfinite(together)]
    distinct = np.unique(finite) if discrete else finite[:0]
    bars, several = 0 < len(distinct) <= _MOST_BARS, len(groups) > 1
    if bars:
        edges = np.arange(len(distinct) + 1) - 0.5
        name_ticks(ax.xaxis, [f"{number:g}" for number in distinct])
    else:
        ax.ticklabel_format(axis="x", scilimits=(-3, 5))
        shown = finite if discrete else finite[finite != 0]
        edges = _edges(shown, _BINS // 2 if several else _BINS)
    peaked = False
    for place, (name, part) in enumerate(groups):
        # Zeros of a rectified layer would hide all other numbers.
        drawn = part if discrete else part[np.isfinite(part) & (part != 0)]
        counts, _ = np.histogram(
            np.searchsorted(distinct, part) if bars else drawn, edges
        )
        if counts.max() > counts.sum() / 2 and np.count_nonzero(counts) > 2:
            peaked = True
        style = _style(place) if several else {"fill": True, "color": COLOURS[0]}
        zeros = f": {np.mean(part == 0):.1%} zeros" if 0 in part else ""
        heights = counts / max(part.size, 1) if several else counts
        ax.stairs(heights, edges, label=name + zeros, **style)
    zeros = np.mean(together == 0)
    what = "share of its numbers" if several else "numbers"
    ax.set(xlabel="value", ylabel=what)
    if zeros and not discrete:
        ax.set_ylabel(f"{what} (zeros left out)")
    if peaked and not bars:
        ax.set_yscale("log")
    if several:
        add_legend(ax)
    caption(ax, f"{together.size:,} numbers: {zeros:.1%} zeros{absent([together])}")


def _edges(numbers: Floats, bins: int) -> Floats:
    """Returns the edges of bins that hold all of some finite numbers."""
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
    largest = max(abs(low), abs(high), _SMALLEST)
    if high - low < 1e-9 * largest:
        low, high = low - largest / 10, high + largest / 10
    return np.linspace(low, high, bins + 1)


def draw_units(ax: Any, parts: Sequence[tuple[str, Statistics]], of: str) -> None:
    """Draws mean and deviation of each unit, and marks the dead ones."""
    units, axis = parts[0][1].units, parts[0][1].axis
    places = spread(units, _MOST_POINTS)
    for number, (name, known) in enumerate(parts):
        mean = to_drawable(known.mean[places])
        deviation = np.sqrt(to_drawable(known.variance[places]))
        of_part = f" of the {name}" if name else ""
        style = _style(number) | {"marker": "." if units <= _FEW_POINTS else ""}
        ax.plot(places, mean, label=f"mean{of_part}", **style)
        draw_band(ax, places, mean, deviation, style["color"], f"deviation{of_part}")
        dead = known.dead[places]
        if dead.any():
            label = f"dead: {known.dead.sum():,} of {text.counted(units, 'unit')}"
            style = {"ls": "", "marker": "x", "color": COLOURS[-1]}
            ax.plot(places[dead], mean[dead], label=label, **style)
    set_whole_ticks(ax.xaxis)
    ax.set(xlabel="unit" if axis == 1 else f"unit (along axis {axis})", ylabel="value")
    some = "" if len(places) == units else f"{len(places):,} of {units:,} units, "
    caption(ax, f"by unit: {some}{of}")
    add_legend(ax)


def draw_band(
    ax: Any, x: Any, mean: Floats, deviation: Floats, colour: str, label: str
) -> None:
    """Draws one deviation around a mean: lines for a few points, or a band."""
    # Of numbers that are too large for their squares.
    with np.errstate(invalid="ignore"):
        ends = mean - deviation, mean + deviation
    style = {"color": colour, "alpha": 0.3}
    if len(x) <= _FEW_POINTS:
        ax.vlines(x, *ends, lw=4, label=label, **style)
    else:
        ax.fill_between(x, *ends, lw=0, label=label, **style)


def draw_lines(ax: Any, x: Any, lines: Groups, xlabel: str) -> None:
    """Draws a line of each group of numbers; numbers by row are points."""
    places, by_row = spread(len(x), _MOST_POINTS), xlabel == "row"
    marker = "." if by_row or len(x) <= _FEW_POINTS else ""
    for number, (name, part) in enumerate(lines):
        style = _style(number) | {"marker": marker} | ({"ls": ""} if by_row else {})
        ax.plot(x[places], part[places], label=name, **style)
    ax.set(xlabel=xlabel, ylabel="value")
    set_whole_ticks(ax.xaxis)
    some = "" if len(places) == len(x) else f": {len(places):,} of {len(x):,} {xlabel}s"
    caption(ax, f"by {xlabel}{some}{absent([part for _, part in lines])}")
    if any(name for name, _ in lines):
        add_legend(ax)


def draw_images(
    figure: Plot,
    panels: Sequence[Panel],
    columns: int,
    labels: tuple[str, str],
    aspect: str = "auto",
) -> list[Any]:
    """Draws images on one scale of colours, with its bar; returns their axes."""
    lines = math.ceil(len(panels) / columns)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    axes = list(grid.flat)
    style = _colours([panel.image for panel in panels]) | {"aspect": aspect}
    small: Any = {"fontsize": "small", "parse_math": False}
    for place, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        finite = np.where(np.isfinite(panel.image), panel.image, np.nan)
        image = ax.imshow(finite, interpolation="nearest", **style)
        if place < columns or not panel.side or "," in panel.title:
            ax.set_title(panel.title, **small)
        if panel.side and place % columns == 0:
            ax.set_ylabel(panel.side, **small)
        below = place + columns >= len(panels)
        ax.tick_params(labelsize="small", labelbottom=below)
        for side in (ax.xaxis, ax.yaxis):
            set_whole_ticks(side, 4 if columns > 1 else 8)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.supxlabel(labels[0], fontsize="medium")
    figure.supylabel(labels[1], fontsize="medium")
    missing = absent([panel.image for panel in panels])
    label = f"value (grey: {missing[2:]})" if missing else "value"
    figure.colorbar(image, ax=axes, label=label)
    return axes[: len(panels)]


def _colours(images: Sequence[Floats]) -> dict[str, Any]:
    """Returns one scale of colours, with white at zero where both signs are."""
    together = np.concatenate([image.reshape(-1) for image in images])
    finite = together[np.isfinite(together)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    name = "viridis"
    if low < 0 < high:
        name, high = "RdBu_r", max(-low, high)
        low = -high
    colours = matplotlib.colormaps[name].with_extremes(bad="0.6")
    return {"cmap": colours, "vmin": low, "vmax": high}


def _style(number: int) -> dict[str, Any]:
    """Returns the style of a line; after all colours, they are dashed."""
    line = "-" if number < len(COLOURS) else "--"
    return {"color": COLOURS[number % len(COLOURS)], "ls": line, "lw": 1.2}


def caption(ax: Any, words: str) -> None:
    """Writes the title of a panel."""
    ax.set_title(words, fontsize="small", parse_math=False)


def write(ax: Any, words: str) -> None:
    """Writes into the middle of a panel why it is empty."""
    style: Any = {"ha": "center", "va": "center", "parse_math": False}
    ax.text(0.5, 0.5, words, transform=ax.transAxes, **style)


def add_legend(ax: Any, right: bool = False) -> None:
    """Adds a legend below a panel, or right of it; the names in it are text."""
    columns = 2 if len(ax.get_legend_handles_labels()[1]) > 3 else 3
    style: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
    if right:
        columns, style = 1, {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    legend = ax.legend(fontsize="small", ncols=columns, frameon=False, **style)
    for words in legend.get_texts():
        words.set_parse_math(False)


def set_whole_ticks(axis: Any, most: int = 8) -> None:
    """Places ticks at integers."""
    axis.set_major_locator(ticker.MaxNLocator(most, integer=True, min_n_ticks=1))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:.0f}"))


def name_ticks(axis: Any, names: Any) -> None:
    """Places ticks at some of the places 0, 1, 2 and so on, with their names."""
    places = np.arange(0, len(names), math.ceil(len(names) / 12))
    axis.set_ticks(places, [f"{names[place]}" for place in places])
