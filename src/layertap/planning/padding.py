"""Rows of different sizes: padded to the longest, with their true sizes kept.

A stored array has one shape, so the longest has to be known before the first row is
computed: from one look over the data, or because the user says so.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Plan, Value
from layertap.errors import DataError, ModelError, OptionError
from layertap.inputs.feed import Feed
from layertap.planning.planner import Selection, plan_for
from layertap.planning.reduction import Reduction, without_joins
from layertap.tracing.model_structure import InputSpec, input_specs, specs_of

Pad = bool | int
Array = NDArray[Any]


def plan_padded(
    model: keras.Model,
    feed: Feed,
    selection: Selection,
    reduction: Reduction,
    pad: Pad,
) -> Plan:
    """Plans a model for data of different sizes.

    Args:
        model: The model.
        feed: The data.
        selection: What is to be taken of it.
        reduction: What is done to each value before it is stored.
        pad: True to look for the longest in the data; or the most that an open size
            of an input is.

    Returns:
        The plan for the largest inputs. `padded` of it names the axes along which a
        value is smaller where the inputs are.

    Raises:
        OptionError: If `pad` makes no sense here.
        DataError: If the largest size of a value can't be known.
        LayertapError: As of `layertap.plan`.
    """
    if selection.for_head:
        raise OptionError(
            "A head takes values of their true sizes, not padded ones: for_head=True "
            "and `pad` don't go together. Pad the data themselves."
        )
    if pad is not True and (isinstance(pad, bool) or not isinstance(pad, int)):
        raise OptionError(f"`pad` is True or a whole number; found {pad!r}.")
    if pad < 1:
        raise OptionError(f"`pad` is at least 1; found {pad!r}.")
    most_specs, open_specs = _specs(model, feed, pad)
    # Where two plans disagree, a size follows from the inputs. For the one of unknown
    # sizes no number of rows is given: it would stand in for them all, unnoticed.
    rows = feed.first().rows
    most, opened = (
        plan_for(model, specs, selection, rows=known)
        for specs, known in ((most_specs, rows), (open_specs, None))
    )
    if most.addresses != opened.addresses:
        raise ModelError(
            f"{model.name!r} has other values for inputs of other sizes, which can't "
            "be padded to one. Take with `before` or `outputs` what is always there."
        )
    axes = {value.address: _unknown(value.shape) for value in opened.values}
    most = without_joins(
        most,
        lambda recipe: any(recipe.axis in axes[name] for name in recipe.addresses),
    )
    most = reduction.planned(most).each(lambda value: filled(value, pad))
    stored = {value.address for value in most.stored}
    padded = {
        value.address: _unknown(value.shape)
        for value in reduction.planned(opened).values
        if value.address in stored and _unknown(value.shape)
    }
    return replace(most, padded=padded)


def pad_to(array: Array, value: Value) -> Array:
    """Returns an array filled up with zeros at the ends of its axes.

    Args:
        array: The value in one batch.
        value: The value as planned.
    """
    sizes = zip(value.shape[1:], array.shape[1:], strict=True)
    return np.pad(array, [(0, 0), *((0, (n or size) - size) for n, size in sizes)])


def cut_to(array: Array, axes: Sequence[int], sizes: Sequence[int]) -> Array:
    """Returns an array without what it was padded with.

    Args:
        array: Rows of one size each.
        axes: The axes that were padded.
        sizes: The true sizes along them.
    """
    index: list[Any] = [slice(None)] * array.ndim
    for axis, size in zip(axes, sizes, strict=True):
        index[axis] = slice(size)
    found: Array = array[tuple(index)]
    return found


def filled(value: Any, pad: Pad) -> Any:
    """Gives a value the size that was passed where even its inputs don't tell one.

    Raises:
        DataError: If there is such an axis, and no size was passed.
    """
    unknown = _unknown(value.shape)
    if unknown and pad is True:
        raise DataError(
            f"{value.address} has shape {value.shape}: how long it gets is not known "
            "before it runs. Pass the most that it can be, pad=512."
        )
    sizes = [pad if axis in unknown else n for axis, n in enumerate(value.shape)]
    return replace(value, shape=tuple(sizes))


def _specs(model: keras.Model, feed: Feed, pad: Pad) -> tuple[Any, Any]:
    """Returns specs with the largest sizes, and with unknown ones in their places."""
    declared = input_specs(model)
    first = specs_of(feed.first().inputs, declared)
    flat: list[InputSpec] = keras.tree.flatten(first)
    if pad is True:
        seen = [set(sizes) for sizes in _sizes(feed)]
    if declared is not None:
        opened = [_unknown(spec.shape) for spec in keras.tree.flatten(declared)]
    elif pad is True:
        opened = [
            tuple(a for a in range(1, len(s.shape)) if len({z[a] for z in sizes}) > 1)
            for s, sizes in zip(flat, seen, strict=True)
        ]
    else:
        raise OptionError(
            f"{model.name!r} does not declare which sizes of its inputs are open. Pass "
            "pad=True, with data that can be read twice: a look at them tells."
        )

    def spec(index: int, opening: bool) -> InputSpec:
        shape = list(flat[index].shape)
        for axis in opened[index]:
            known = max(z[axis] for z in seen[index]) if pad is True else pad
            shape[axis] = None if opening else known
        return replace(flat[index], shape=tuple(shape))

    most, unknown = (
        keras.tree.pack_sequence_as(
            first, [spec(index, opening) for index in range(len(flat))]
        )
        for opening in (False, True)
    )
    return most, unknown


def _sizes(feed: Feed) -> list[list[tuple[int, ...]]]:
    """Returns all shapes that each input has, in a look over the data."""
    if not feed.again:
        raise OptionError(
            "To pad to the longest, the data are looked at first, but an iterator "
            "gives them only once. Pass the longest, pad=512, or data that can be read "
            "twice."
        )
    found: list[dict[tuple[int, ...], None]] = []
    for batch in feed.batches():
        flat = keras.tree.flatten(batch.inputs)
        found = found or [{} for _ in flat]
        for shapes, array in zip(found, flat, strict=True):
            shapes[array.shape] = None
        if feed.rows is not None:
            # Arrays: all rows have one shape.
            break
    return [list(shapes) for shapes in found]


def _unknown(shape: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(i for i, size in enumerate(shape) if i and size is None)
