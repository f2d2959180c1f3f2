"""Draws rows as pictures: what the model read, and Grad-CAM over it."""

import base64
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import text
from layertap.core.display.pictures import Picture, png
from layertap.core.plan import described
from layertap.pages.drawing import colours_of
from layertap.pages.facts import PageFacts
from layertap.pages.rows.row_facts import RowFacts, ShownRow, row_facts

Floats = NDArray[np.float64]
# Levels from 0 to 255, and which of them are known.
Pixels = tuple[Floats, NDArray[np.bool_]]

# The pixels of a picture along its longer side, and bytes of all pictures together.
_SIDE, _MOST_BYTES = 96, 3 * 2**18
# Okabe and Ito's vermilion for Grad-CAM, and how opaque its largest number is.
_COLOUR, _OPAQUE = (213, 94, 0), 0.85
# How dark the input below it is, from 0 to 1.
_DARKNESS = 0.7
_LONGEST_NAME = 60


def shown_rows(page: PageFacts, inputs: Any) -> dict[str, Any] | None:
    """Returns the parts of the section of rows, or None if it would be empty."""
    facts = row_facts(page, inputs)
    count = len(facts.rows) * (len(facts.inputs) + len(facts.maps))
    if not count:
        return None
    # Each pixel has four bytes, and base64 makes four of three.
    side = min(_SIDE, math.isqrt(_MOST_BYTES * 3 // (16 * count)))
    colours = colours_of(page)
    lines = [
        _input_line(text.shorten(name, _LONGEST_NAME), pictures, facts, side)
        for name, pictures in facts.inputs.items()
    ]
    base = None
    if len(facts.inputs) == 1:
        # Of several, a value may be computed from any.
        (pictures,) = facts.inputs.values()
        base = [_resized(level, side) for level in _scaled(pictures)[0]]
    made_by = {value.address: value.made_by for value in page.saved.plan.values}
    for name, maps in facts.maps.items():
        of = text.shorten(made_by[name], _LONGEST_NAME)
        lines.append(_map_line(name, f"Grad-CAM of {of}", maps, base, facts, side))
    return {
        "columns": [
            {
                "name": text.printable(row.name),
                "label": None if row.label is None else text.printable(row.label),
                "colour": None if row.label is None else colours[row.label],
            }
            for row in facts.rows
        ],
        "lines": lines,
        "note": _note(facts, page, over=base is not None),
    }


def _note(facts: RowFacts, page: PageFacts, *, over: bool) -> str:
    """Returns what the colour of the maps means."""
    target = page.saved.plan.gradients_of
    if not facts.maps or target is None:
        return ""
    target = text.shorten(described(target), _LONGEST_NAME)
    where = "over the input in grey" if over else "on white"
    note = f"Grad-CAM, {where}: where the maps of a value raise {target}, they are "
    note += "orange; where they do not, there is no colour. The strongest orange is "
    note += "the largest number of each picture."
    return note + f" {facts.more:,} more values are not shown." * bool(facts.more)


def _input_line(
    name: str, pictures: Floats, facts: RowFacts, side: int
) -> dict[str, Any]:
    levels, low, high = _scaled(pictures)
    drawn = [
        _picture(f"{name} of {_named(row)}", *_resized(level, side))
        for row, level in zip(facts.rows, levels, strict=True)
    ]
    scale = f"black is {low:.4g}, white is {high:.4g}"
    return {"name": name, "scale": scale, "pictures": drawn}


def _map_line(
    name: str,
    of: str,
    maps: Floats,
    base: list[Pixels] | None,
    facts: RowFacts,
    side: int,
) -> dict[str, Any]:
    drawn = []
    for place, (row, numbers) in enumerate(zip(facts.rows, maps, strict=True)):
        known = np.where(np.isfinite(numbers), numbers, 0)
        largest = known.max()
        label = f"Grad-CAM of {name} in {_named(row)}, "
        label += f"largest {largest:.4g}" if largest else "nowhere above zero"
        label += ", not finite in part" * bool((known != numbers).any())
        size = _size_on_page(numbers.shape, side)
        under, opaque = np.full(size, 255.0), np.ones(size, np.bool_)
        if base is not None:
            levels, opaque = base[place]
            grey = levels.mean(axis=2) if levels.ndim == 3 else levels
            # Lighter, so that orange shows on black.
            under = 255 - (255 - grey) * _DARKNESS
        strength = _area(known / (largest or 1.0), opaque.shape)[..., None]
        strength *= _OPAQUE / (strength.max() or 1.0)
        mixed = under[..., None] * (1 - strength) + strength * _COLOUR
        drawn.append(_picture(label, mixed, opaque))
    return {"name": name, "scale": of, "pictures": drawn}


def _named(row: ShownRow) -> str:
    """Returns the name of a row with its label, if it has one."""
    name = row.name if row.label is None else f"{row.name}, label {row.label}"
    return text.printable(name)


def _scaled(pictures: Floats) -> tuple[Floats, float, float]:
    """Returns the pixels of pictures from 0 to 255, and the numbers of both ends."""
    finite = pictures[np.isfinite(pictures)]
    low, high = (
        (float(finite.min()), float(finite.max())) if len(finite) else (0.0,) * 2
    )
    # Halves of finite numbers have a finite distance.
    return (pictures / 2 - low / 2) / ((high / 2 - low / 2) or 1.0) * 255, low, high


def _size_on_page(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Returns the height and the width that a picture has as pixels."""
    height, width = shape[:2]
    longer = max(height, width)
    # Pixels of small pictures are repeated.
    scale = side // longer if longer <= side else side / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(levels: Floats, side: int) -> Pixels:
    """Returns pixels in the size on the page, and which of them are known."""
    size, known = _size_on_page(levels.shape, side), np.isfinite(levels)
    if known.all():
        return _area(levels, size), np.ones(size, np.bool_)
    shares = _area(known.astype(np.float64), size)
    pixels = _area(np.where(known, levels, 0), size) / np.where(shares, shares, 1)
    # Of a colour, all three parts have to be known.
    return pixels, shares.reshape(*size, -1).min(axis=2) >= 0.5


def _area(numbers: Floats, size: tuple[int, ...]) -> Floats:
    """Returns the mean of the numbers that each pixel of a picture of a size covers."""
    for axis, (count, wanted) in enumerate(zip(numbers.shape, size, strict=False)):
        # A pixel and a number cover parts of a line from 0 to 1.
        pixels = np.arange(wanted)[:, None] * count / wanted
        cells = np.arange(count)
        ends = np.minimum(pixels + count / wanted, cells + 1)
        weights = np.maximum(ends - np.maximum(pixels, cells), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        numbers = np.moveaxis(np.tensordot(weights, numbers, (1, axis)), 0, axis)
    return numbers


def _picture(label: str, levels: Floats, opaque: NDArray[np.bool_]) -> Picture:
    encoded = base64.b64encode(png(np.rint(levels), opaque)).decode()
    scale = _SIDE / max(opaque.shape)
    height, width = (max(1, round(size * scale)) for size in opaque.shape)
    return Picture(label, "", encoded, width, height)
