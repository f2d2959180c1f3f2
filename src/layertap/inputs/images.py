"""A folder of images as an array of rows, read when it is sliced."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.core.optional import require
from layertap.errors import DataError, OptionError
from layertap.inputs.lazy_array import LazyRows, reporting

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(eq=False)
class ImageFolder(LazyRows):
    """All images below a folder, in the order of their paths, as float32.

    They are resized (bilinear) and hold numbers from 0 to 255, as Keras' `load_img` and
    `img_to_array` return them. Hidden files and folders are left out. Of a moving
    picture, the first image counts.

    Args:
        folder: The folder.
        size: Height and width to resize to.
        channels: 1 grey, 3 colours, or 4 colours and transparency.
        data_format: The axis of the channels, as in Keras.

    Attributes:
        ids: The images' paths below the folder, with `/` between their parts.
        labels: For each image, the number of its sub-folder among `classes`. None if an
            image is not in a sub-folder.
        classes: The names of the sub-folders with images, sorted.

    Example:
    ```python
    images = ImageFolder(Path("flowers"), size=(180, 180), channels=3)
    layertap.save(model, (images, images.labels), "values.zarr", ids=images.ids)
    ```
    """

    folder: Path
    size: tuple[int, int]
    channels: int
    data_format: Literal["channels_last", "channels_first"] = "channels_last"

    def __post_init__(self) -> None:
        _pillow()
        folder, channels = self.folder, self.channels
        if channels not in MODES:
            raise OptionError(
                f"The channels are invalid. Expected 1, 3 or 4. Received {channels}."
            )
        files = (f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
        self.ids = sorted(
            file.as_posix()
            for file in files
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.parts)
        )
        if not self.ids:
            raise DataError(
                f"{folder} has no images. Expected files that end in "
                f"{', '.join(sorted(SUFFIXES))}."
            )
        above = [name.partition("/")[0] if "/" in name else "" for name in self.ids]
        self.classes = [] if "" in above else sorted(set(above))
        self.labels: NDArray[np.int64] | None = None
        if self.classes:
            numbers = {name: number for number, name in enumerate(self.classes)}
            self.labels = np.array([numbers[name] for name in above], "int64")
        self._channels_first = self.data_format == "channels_first"
        image = (
            (channels, *self.size) if self._channels_first else (*self.size, channels)
        )
        self.shape = (len(self.ids), *image)
        self.dtype = np.dtype("float32")

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Reads, converts and resizes images."""
        images = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for image, name in zip(images, self.ids[start:stop], strict=True):
            pixels = self._pixels(name)
            image[...] = np.moveaxis(pixels, -1, 0) if self._channels_first else pixels
        return images

    def _pixels(self, name: str) -> NDArray[np.uint8]:
        image = _pillow()
        height, width = self.size
        errors = (OSError, SyntaxError, ValueError, image.DecompressionBombError)
        with reporting(f"{self.folder / name} is not a readable image", *errors):
            with image.open(self.folder / name) as opened:
                if opened.mode.startswith("I"):
                    # The upper 8 of 16 bits, as TensorFlow does: Pillow would make
                    # all values above 255 white.
                    opened = image.fromarray((np.asarray(opened) >> 8).astype("uint8"))
                picture = opened.convert(MODES[self.channels])
            if picture.size != (width, height):
                picture = picture.resize((width, height), image.Resampling.BILINEAR)
        return np.asarray(picture, "uint8").reshape(height, width, self.channels)


def read_images(folder: Path, specs: Any) -> ImageFolder:
    """Opens a folder of images for a model with one input of images of known size."""
    while isinstance(specs, Mapping | list | tuple) and len(specs) == 1:
        (specs,) = specs.values() if isinstance(specs, Mapping) else specs
    shape: Any = getattr(specs, "shape", ())
    if len(shape) == 4 and None not in shape[1:]:
        if shape[3] in MODES:
            return ImageFolder(folder, shape[1:3], shape[3])
        if shape[1] in MODES:
            return ImageFolder(folder, shape[2:], shape[1], "channels_first")
    received = f" Received {shape}." if shape else ""
    raise DataError(
        f"{folder} is read as a folder of images, which does not fit the model. "
        "Expected one input of shape (rows, height, width, channels), all known but "
        f"the rows, and 1, 3 or 4 channels.{received} Or pass package.module:callable."
    )


def _pillow() -> Any:
    return require("PIL.Image", "images", "A folder of images")
