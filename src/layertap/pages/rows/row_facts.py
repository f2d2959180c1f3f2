"""The rows that a page shows as pictures: their inputs and their Grad-CAM."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables
from layertap.core.display.pictures import as_floats
from layertap.errors import OptionError
from layertap.pages.drawing import colours_of
from layertap.pages.facts import PageFacts
from layertap.pages.rows.inputs import inputs_of_rows
from layertap.pages.sample import Rows
from layertap.results.grad_cam import grad_cam_of_rows
from layertap.results.saved import Saved

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]

# The most rows, inputs and values that are shown.
MOST_ROWS, MOST_INPUTS, MOST_VALUES = 8, 4, 4
# The channels of a picture: grey, or colours, also with opacity.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ShownRow:
    """A row that is shown: its number, its name, and its label if it has one."""

    number: int
    name: str
    label: str | None


@dataclass(frozen=True)
class RowFacts:
    """What the page shows of single rows.

    Attributes:
        rows: The rows.
        inputs: Their inputs that are pictures, by name: of shape `(rows, height,
            width)`, or with a last axis of red, green and blue.
        maps: Their Grad-CAM by the address of the value: `(rows, height, width)`.
        more: How many values with Grad-CAM are not shown.
    """

    rows: list[ShownRow]
    inputs: dict[str, Floats]
    maps: dict[str, Floats]
    more: int


def row_facts(page: PageFacts, inputs: Any = None) -> RowFacts:
    """Computes the facts of some rows. Raises unless `inputs` are of the store."""
    places = shown_places(page)
    rows, saved = page.rows[places], page.saved
    if not len(rows):
        return RowFacts([], {}, {}, 0)
    labels: Sequence[str | None] = page.labels or [None] * len(page.rows)
    shown = [
        ShownRow(int(page.rows[place]), page.row_names[place], labels[place])
        for place in places
    ]
    pictures = {} if inputs is None else _pictures(saved, inputs, rows)
    names = _with_grad_cam(saved)
    maps = {
        name: grad_cam_of_rows(saved, name, rows.tolist()).astype(np.float64)
        for name in names[:MOST_VALUES]
    }
    first = list(pictures)[:MOST_INPUTS]
    more = max(len(names) - MOST_VALUES, 0)
    return RowFacts(shown, {name: pictures[name] for name in first}, maps, more)


def _pictures(saved: Saved, inputs: Any, rows: Rows) -> dict[str, Floats]:
    """Returns those inputs of rows that are pictures, by name."""
    arrays = inputs_of_rows(saved, inputs, rows)
    known = {name: as_pictures(array) for name, array in arrays.items()}
    pictures = {name: found for name, found in known.items() if found is not None}
    if not pictures:
        shapes = [tables.shape((None, *array.shape[1:])) for array in arrays.values()]
        raise OptionError(
            "`inputs=` holds no pictures. Expected (rows, height, width), or with 1, 3 "
            f"or 4 channels. Received {', '.join(shapes)}. Leave it out."
        )
    return pictures


def shown_places(page: PageFacts) -> list[int]:
    """Returns the places of up to eight sampled rows, spread evenly, by label."""
    classes = list(colours_of(page))
    labels = page.labels or []
    chosen = []
    for turn, label in enumerate(_spread(classes)):
        places = [place for place, other in enumerate(labels) if other == label]
        chosen.append(places[turn * len(places) // MOST_ROWS])
    others = [place for place in range(len(page.rows)) if place not in chosen]
    chosen += _spread(others, MOST_ROWS - len(chosen))
    order = {label: number for number, label in enumerate(classes)}
    return sorted(chosen, key=lambda n: (order[labels[n]] if labels else 0, n))


def as_pictures(array: NDArray[Any]) -> Floats | None:
    """Returns pictures of rows, grey or of three colours; None if these are not any."""
    array = as_floats(array)
    if array.ndim == 4 and array.shape[3] not in _CHANNELS:
        array = np.moveaxis(array, 1, 3)
    if array.ndim == 4 and array.shape[3] in _CHANNELS:
        array = array[..., 0] if array.shape[3] == 1 else array[..., :3]
    elif array.ndim != 3:
        return None
    return array if array.size else None


def _with_grad_cam(saved: Saved) -> list[str]:
    """Returns the addresses of values that have maps and gradients, each value once."""
    gradients = saved.plan.effects("gradient")
    return [
        value.address
        for value in saved.plan.values
        if value.address in gradients
        and value.alias_of is None
        and saved.plan.reduce is None
        and saved[value.address].ndim == 4
        and 0 not in saved[value.address].shape
        and saved[value.address].dtype.kind != "c"
    ]


def _spread(members: list[Any], most: int = MOST_ROWS) -> list[Any]:
    """Returns at most so many members of a list, spread evenly over it."""
    count = min(len(members), most)
    places = np.linspace(0, len(members) - 1, count).astype(int)
    return [members[place] for place in places.tolist()]
