"""The figure of one value over the steps of a training."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from layertap.core import text
from layertap.recording.course import Course, Similarity
from layertap.results.saved import Saved
from layertap.results.views import charts

_MOST_EPOCHS = 12


def course_figure(
    stores: Mapping[int, Saved],
    address: str,
    name: str,
    course: Course | None,
    similarity: Similarity | None,
    epochs: Mapping[int, int],
) -> charts.Plot:
    """Returns the figure of a value in the recording of a name; see `Recording.plot`.

    The similarity is None if the last step does not have the value.
    """
    steps = [step for step, saved in stores.items() if address in saved.plan.known]
    title = f"{text.shorten(address, 60)}, recording {text.shorten(name, 40)}"
    if steps:
        last = stores[steps[-1]].plan
        planned = (*last.values, *last.derived)
        made_by = next(value.made_by for value in planned if value.address == address)
        title += f"\nmade by {text.shorten(made_by, 40)}, model "
        title += f"{text.shorten(last.model, 30)}, {text.counted(len(steps), 'step')}"
    figure = charts.Plot(title)
    top, *others = axes = figure.subplots(3, 1, sharex=True)
    if course is None:
        why = "complex numbers have no statistics" if steps else "no steps"
        charts.write(top, why)
    else:
        _draw_moments(top, course)
        _draw_shares(others[0], course)
    if steps:
        _draw_similarity(others[1], similarity)
    top.set_ylabel("value")
    others[0].set_ylabel("share")
    others[1].set(ylabel="similarity", xlabel="step")
    charts.set_whole_ticks(others[1].xaxis)
    for ax in axes:
        if ax.get_legend_handles_labels()[0]:
            charts.add_legend(ax, right=True)
    _draw_epochs(top, {step: epochs[step] for step in steps if step in epochs})
    return figure


def _draw_moments(ax: Any, course: Course) -> None:
    """Draws the mean with a band of one deviation, and the first step with NaN."""
    mean = charts.to_drawable(course.mean)
    deviation = charts.to_drawable(course.deviation)
    ax.plot(course.steps, mean, label="mean", **_line(0))
    charts.draw_band(ax, course.steps, mean, deviation, charts.COLOURS[0], "deviation")
    if course.first_nan is not None:
        label = f"NaN from step {course.first_nan:,} on"
        ax.axvline(course.first_nan, color=charts.COLOURS[1], ls=":", label=label)


def _draw_shares(ax: Any, course: Course) -> None:
    """Draws the shares of zeros and of dead units."""
    dead = course.dead / np.maximum(course.units, 1)
    ax.plot(course.steps, course.zeros, label="zeros", **_line(0))
    ax.plot(course.steps, dead, label=f"dead of {course.units[-1]:,} units", **_line(1))
    ax.set_ylim(-0.05, 1.05)


def _draw_similarity(ax: Any, found: Similarity | None) -> None:
    """Draws the similarity to the step before, and to the last step."""
    if found is None:
        charts.write(ax, "the last step does not have the value")
        return
    courses = {"to the step before": found.to_previous, "to the last": found.to_last}
    for number, (label, course) in enumerate(courses.items()):
        label += ": not known" if np.isnan(course).all() else ""
        ax.plot(found.steps, course, label=label, **_line(number))
    # Rounding is not a change.
    lowest = np.nanmin([*found.to_previous, *found.to_last, 0.9])
    ax.set_ylim(lowest - 0.05 * (1 - lowest), 1 + 0.05 * (1 - lowest))


def _line(number: int) -> dict[str, Any]:
    return {"color": charts.COLOURS[number], "lw": 1.2, "marker": "."}


def _draw_epochs(ax: Any, epochs: dict[int, int]) -> None:
    """Adds an axis of the epochs, each at its last step, if they are few."""
    steps = list(epochs)
    ends = [a for a, b in itertools.pairwise(steps) if epochs[a] != epochs[b]]
    ends += steps[-1:]
    if 0 < len(ends) <= _MOST_EPOCHS:
        top = ax.secondary_xaxis("top")
        top.set_ticks(ends, [f"{epochs[step]}" for step in ends])
        top.set_xlabel("epoch")
