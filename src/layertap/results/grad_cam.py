"""Grad-CAM: where in a map the evidence for an answer is."""

import os
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables
from layertap.core.values import Values, unknown_address
from layertap.errors import AddressError, OptionError
from layertap.results.saved import Saved
from layertap.results.saved import open as open_saved

# Numbers that are read at a time.
_AT_A_TIME = 2**22


def grad_cam(
    values: Saved | Values | str | os.PathLike[str],
    address: str,
    *,
    data_format: Literal["channels_last", "channels_first"] | None = None,
) -> NDArray[np.float32]:
    """Returns Grad-CAM maps: the places in a value that raise the target, by row.

    Each channel is weighted with the mean of its gradient. The map is the sum over the
    channels, with negative numbers set to zero (Selvaraju et al. 2017, "Grad-CAM:
    Visual Explanations from Deep Networks via Gradient-based Localization").

    Args:
        values: Values with gradients: saved, captured, or the path of a store.
        address: The address of a value with maps, `"conv/out"` or a branch.
        data_format: Where its channels are; by default as the operation that made the
            value declares it, or Keras.

    Returns:
        Numbers of at least 0 of shape `(rows, height, width)`: all axes but those of
        the rows and of the channels.

    Raises:
        AddressError: If there is no such value, or it has no gradient.
        OptionError: If it has no maps: of a reduced value, for example.

    Example:
    ```python
    values = layertap.capture(model, x, outputs="conv", gradients=3)
    maps = layertap.grad_cam(values, "conv/out")  # gradients of output 3
    ```
    """
    values = values if isinstance(values, Values) else open_saved(values)
    value, gradient, first = _checked(values, address, data_format)
    size = max(_AT_A_TIME // max(int(np.prod(value.shape[1:])), 1), 1)
    maps = [
        _maps(value[start : start + size], gradient[start : start + size], first)
        for start in range(0, values.rows, size)
    ]
    sizes = value.shape[2:] if first else value.shape[1:-1]
    return np.concatenate(maps) if maps else np.empty((0, *sizes), np.float32)


def grad_cam_of_rows(
    values: Saved | Values, address: str, rows: Iterable[int]
) -> NDArray[np.float32]:
    """Returns the maps of some rows, at least one, and reads only these."""
    value, gradient, first = _checked(values, address, None)
    slices = [slice(row, row + 1) for row in rows]
    return np.concatenate([_maps(value[row], gradient[row], first) for row in slices])


def _checked(
    values: Saved | Values, address: str, data_format: str | None
) -> tuple[Any, Any, bool]:
    """Returns a value, its gradient, and whether its channels come first."""
    plan, names = values.plan, values.plan.effects("gradient")
    if address not in plan.addresses:
        raise unknown_address(plan, address)
    if address not in names:
        raise AddressError(
            f"{address} has no gradient. Expected one of {', '.join(names) or 'none'}. "
            "Save or capture it with `gradients=`."
        )
    value, gradient = values[address], values[names[address]]
    if len(value.shape) < 3 or plan.reduce is not None:
        raise OptionError(
            f"{address} has no maps. Expected (rows, height, width, channels), not "
            f"reduced. Received {tables.shape((None, *value.shape[1:]))}."
        )
    first = address in plan.channels_first
    if data_format is not None:
        first = data_format == "channels_first"
    return value, gradient, first


def _maps(
    value: NDArray[np.float32], gradient: NDArray[np.float32], channels_first: bool
) -> NDArray[np.float32]:
    """Returns the maps of some rows."""
    channels = 1 if channels_first else value.ndim - 1
    places = tuple(axis for axis in range(1, value.ndim) if axis != channels)
    # NaN and infinite numbers stay such, without a warning.
    with np.errstate(all="ignore"):
        weights = gradient.astype(np.float32).mean(axis=places, keepdims=True)
        summed = (value.astype(np.float32) * weights).sum(axis=channels)
        return np.maximum(summed, 0)
