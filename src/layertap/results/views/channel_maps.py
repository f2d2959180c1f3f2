"""Figures of maps: for each array of one row, one map for each channel."""

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.optional import require
from layertap.errors import OptionError, PartialWarning

Maps = Sequence[NDArray[Any]]


def of_rows(
    arrays: Mapping[Any, Any],
    data_format: str,
    axes: Collection[int],
    rectangles: bool = False,
) -> Iterator[tuple[str, Maps]]:
    """Yields the maps of each array of one row, with its name; a list has several.

    Vectors are maps of one line, or `rectangles`. Other arrays are named in a warning.
    """
    if data_format not in ("channels_last", "channels_first"):
        raise OptionError(
            "`data_format` is invalid. Expected 'channels_last' or 'channels_first'. "
            f"Received {data_format!r}."
        )
    skipped = []
    for key, value in arrays.items():
        parts = value if isinstance(value, list) else [value]
        for number, part in enumerate(parts):
            name = str(key) if len(parts) == 1 else f"{key}:{number}"
            if np.ndim(part) not in axes or len(part) != 1 or not np.size(part):
                skipped.append(f"{name} {np.shape(part)}")
                continue
            row = np.asarray(part[0], np.float32)
            if row.ndim == 1:
                shape = rectangle(row.size) if rectangles else (1, row.size)
                yield name, [row.reshape(shape)]
                continue
            channels = np.moveaxis(row, -1 if data_format == "channels_last" else 0, 0)
            yield name, [np.atleast_2d(channel) for channel in channels]
    _warn(skipped, f"one row and {' or '.join(map(str, axes))} axes")


def of_kernels(
    arrays: Mapping[str, NDArray[Any]],
) -> Iterator[tuple[str, Maps, tuple[int, int]]]:
    """Yields the maps of kernels of convolutions, a row for each filter.

    They have the shape `(height, width, channels, filters)`. Other arrays are named in
    a warning.
    """
    skipped = []
    for name, array in arrays.items():
        if np.ndim(array) != 4:
            skipped.append(f"{name} {np.shape(array)}")
            continue
        height, width, channels, filters = np.shape(array)
        maps = np.transpose(np.asarray(array, np.float32), (3, 2, 0, 1))
        yield name, [*maps.reshape(-1, height, width)], (filters, channels)
    _warn(skipped, "four axes")


def _warn(skipped: Sequence[str], expected: str) -> None:
    if skipped:
        text = f"No pictures of {', '.join(skipped)}. Expected arrays of {expected}."
        warnings.warn(text, PartialWarning, stacklevel=4)


def as_image(array: Any) -> NDArray[Any]:
    """Returns an image with numbers from 0 to 1, without axes of size one."""
    image = np.asarray(array)
    image = image[0] if image.ndim == 4 else image
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if image.min() >= 0 and 1 < image.max() <= 255:
        return image / 255.0
    return image


def merged(maps: Maps) -> Maps:
    """Returns one map: the sum of all, each scaled to numbers from 0 to 1."""
    total = np.zeros_like(maps[0])
    for part in maps:
        spread = part.max() - part.min()
        total += (part - part.min()) / (spread or 1)
    return [total]


def rectangle(size: int) -> tuple[int, int]:
    """Returns the sides of the rectangle of a size that is nearest to a square."""
    side = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    return size // side, side


def square(count: int) -> tuple[int, int]:
    """Returns the rows and columns of a grid that has room for a number of maps."""
    rows = math.isqrt(count - 1) + 1
    return rows, math.ceil(count / rows)


class Album:
    """Draws figures. It numbers their files in a directory, or shows them if None."""

    def __init__(self, directory: Any, size: tuple[float, float]) -> None:
        self._plt = require("matplotlib.pyplot", "plot", "A figure")
        self._directory = None if directory is None else Path(directory)
        self._size = size
        self._count = 0

    def add(
        self, name: str, maps: Maps, grid: tuple[int, int] | None = None, **style: Any
    ) -> None:
        """Draws maps on one scale, with its bar."""
        figure, axes = self._grid(name, grid or square(len(maps)))
        scale = {"vmin": np.min(maps), "vmax": np.max(maps)}
        for ax, part in zip(axes, maps, strict=False):
            image = ax.imshow(part, **scale, **style)
        figure.subplots_adjust(right=0.8)
        figure.colorbar(image, cax=figure.add_axes((0.85, 0.15, 0.03, 0.7)))
        self._finish(figure, name)

    def add_over(self, image: NDArray[Any], name: str, maps: Maps) -> None:
        """Draws maps over an image, from blue for the lowest to red."""
        figure, axes = self._grid(name, square(len(maps)))
        height, width = image.shape[:2]
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        for ax, part in zip(axes, maps, strict=False):
            ax.imshow(image)
            style = {"alpha": 0.3, "cmap": "jet", "interpolation": "bilinear"}
            ax.imshow(part, extent=extent, **style)
        self._finish(figure, name)

    def _grid(self, name: str, grid: tuple[int, int]) -> tuple[Any, Any]:
        figure, axes = self._plt.subplots(*grid, squeeze=False, figsize=self._size)
        # A name is text, also with the signs of formulas.
        figure.suptitle(name, parse_math=False)
        for ax in axes.flat:
            ax.axis("off")
        return figure, axes.flat

    def _finish(self, figure: Any, name: str) -> None:
        if self._directory is None:
            self._plt.show()
        else:
            self._directory.mkdir(parents=True, exist_ok=True)
            first = name.partition("/")[0]
            path = self._directory / f"{self._count}_{first}.png"
            figure.savefig(path, bbox_inches="tight")
        self._plt.close(figure)
        self._count += 1
