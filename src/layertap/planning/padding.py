"""Pads rows of different sizes to the largest one.

A stored array has one shape, so the largest size has to be known before the first row
is computed: from one pass over the data, or from the user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Shape
from layertap.errors import DataError, OptionError
from layertap.inputs.feed import Feed
from layertap.tracing.model_structure import InputSpec, input_specs, specs_of

Pad = bool | int
Array = NDArray[Any]


@dataclass(frozen=True)
class Padding:
    """The sizes of a plan's values that follow from sizes of the inputs."""

    # True, or the largest size, from the user.
    pad: Pad
    # The shapes of values by address, as computed, for inputs of unknown sizes.
    shapes: Mapping[str, Shape]

    def fill(self, name: str, shape: Shape) -> Shape:
        """Returns a shape with `pad` for sizes that even the inputs do not determine.

        Raises:
            DataError: If there is such a size, and `pad` is True.
        """
        unknown = unknown_axes(shape)
        if unknown and self.pad is True:
            raise DataError(
                f"{name} has shape {shape}: its size is not known before it is "
                "computed. Pass the largest size, for example pad=512."
            )
        return tuple(self.pad if i in unknown else n for i, n in enumerate(shape))


def padded_specs(model: keras.Model, feed: Feed, pad: Pad) -> tuple[Any, Any]:
    """Returns input specs with the largest sizes, and with unknown sizes instead."""
    declared = input_specs(model)
    first = specs_of(feed.first().inputs, declared)
    flat: list[InputSpec] = keras.tree.flatten(first if declared is None else declared)
    if pad is True:
        seen = _sizes(feed)
    elif declared is not None:
        seen = [[{pad}] * len(spec.shape) for spec in flat]
    else:
        raise OptionError(
            f"{model.name!r} does not declare which sizes of its inputs are open, so "
            f"pad={pad!r} can't be applied. Pass pad=True, with data that can be read "
            "twice."
        )
    largest, opened = [], []
    for spec, sizes, given in zip(flat, seen, keras.tree.flatten(first), strict=True):
        if given.absent:
            largest.append(given)
            opened.append(given)
            continue
        shape = spec.shape
        if declared is None:
            axes = zip(shape, sizes, strict=True)
            shape = tuple(n if len(values) == 1 else None for n, values in axes)
        opened.append(replace(spec, shape=shape))
        axes = zip(shape[1:], sizes[1:], strict=True)
        known = (max(values) if n is None else n for n, values in axes)
        largest.append(replace(spec, shape=(spec.shape[0], *known)))
    pack = partial(keras.tree.pack_sequence_as, first)
    return pack(largest), pack(opened)


def pad_to(array: Array, sizes: Sequence[int | None]) -> Array:
    """Fills up the axes of a batch, but for the rows, with zeros to planned sizes."""
    both = zip(sizes, array.shape[1:], strict=True)
    return np.pad(array, [(0, 0), *((0, (n or size) - size) for n, size in both)])


def cut_to(array: Array, axes: Sequence[int], sizes: Sequence[int]) -> Array:
    """Cuts padded axes of an array to their true sizes."""
    index: list[Any] = [slice(None)] * array.ndim
    for axis, size in zip(axes, sizes, strict=True):
        index[axis] = slice(size)
    return array[tuple(index)]


def _sizes(feed: Feed) -> list[list[set[int]]]:
    """Returns the sizes of each axis of each input over all data."""
    if not feed.again:
        raise OptionError(
            "pad=True reads the data twice, but an iterator can be read only once. "
            "Pass the largest size, for example pad=512, or data that can be read "
            "twice."
        )
    seen: list[list[set[int]]] = []
    for batch in feed.batches():
        shapes = [getattr(x, "shape", ()) for x in keras.tree.flatten(batch.inputs)]
        seen = seen or [[set() for _ in shape] for shape in shapes]
        for sizes, shape in zip(seen, shapes, strict=True):
            for values, size in zip(sizes, shape, strict=True):
                values.add(size)
        if feed.rows is not None:
            # Arrays: all rows have one shape.
            break
    return seen


def unknown_axes(shape: Sequence[int | None]) -> tuple[int, ...]:
    """Returns the axes of unknown size, besides that of the rows."""
    return tuple(i for i, size in enumerate(shape) if i and size is None)
