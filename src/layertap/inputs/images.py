"""A folder of images, as an array of rows that is read when it is sliced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.core.optional import require
from layertap.errors import DataError, OptionError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Format = Literal["channels_last", "channels_first"]


class ImageFolder:
    """All images below a folder, in the order of their paths, as one lazy array.

    Slicing it reads those files, resizes them (bilinear) and gives numbers from 0 to
    255, as Keras' `load_img` and `img_to_array` do. Nothing else is in memory. Hidden
    files and folders are left out; of a moving picture, the first is taken.

    Args:
        folder: The folder.
        size: Height and width to resize to.
        channels: 1 grey, 3 colours, or 4 colours and transparency.
        data_format: Which axis of a row the channels are, as in Keras.

    Attributes:
        ids: The images' paths below the folder, with `/` between their parts.
        labels: Where every image lies in a sub-folder: the number of that among
            `classes`; else None.
        classes: The names of the sub-folders with images, sorted.
        shape: `(images, height, width, channels)`, or the channels second.

    Raises:
        DataError: If there is no image, or one can't be read.
        OptionError: If images can't have so many channels.
        BackendMissingError: If Pillow is not installed.

    Example:
    ```python
    images = ImageFolder(Path("flowers"), size=(180, 180), channels=3)
    layertap.save(model, (images, images.labels), "values.zarr", ids=images.ids)
    ```
    """

    dtype = np.dtype("float32")

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        channels: int,
        data_format: Format = "channels_last",
    ) -> None:
        _pillow()
        if channels not in MODES:
            raise OptionError(
                f"Images have 1, 3 or 4 channels; the model takes {channels}."
            )
        self.folder = folder
        self.ids = sorted(_images_below(folder))
        if not self.ids:
            raise DataError(
                f"{folder} has no images: no file that ends in "
                f"{', '.join(sorted(SUFFIXES))}."
            )
        above = [name.partition("/")[0] if "/" in name else "" for name in self.ids]
        self.classes = [] if "" in above else sorted(set(above))
        self.labels: NDArray[np.int64] | None = None
        if self.classes:
            numbers = {name: number for number, name in enumerate(self.classes)}
            self.labels = np.array([numbers[name] for name in above], "int64")
        self._size, self._channels = size, channels
        self._first = data_format == "channels_first"
        image = (channels, *size) if self._first else (*size, channels)
        self.shape = (len(self.ids), *image)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        names = self.ids[rows]
        images = np.empty((len(names), *self.shape[1:]), self.dtype)
        for image, name in zip(images, names, strict=True):
            pixels = self._read(name)
            image[...] = np.moveaxis(pixels, -1, 0) if self._first else pixels
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, name: str) -> NDArray[np.uint8]:
        image = _pillow()
        too_large = image.DecompressionBombError
        height, width = self._size
        try:
            with image.open(self.folder / name) as opened:
                if opened.mode.startswith("I"):
                    # Of 16 bits the upper 8 count, as in TensorFlow: Pillow would make
                    # everything above 255 white.
                    opened = image.fromarray((np.asarray(opened) >> 8).astype("uint8"))
                picture = opened.convert(MODES[self._channels])
            if picture.size != (width, height):
                picture = picture.resize((width, height), image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, too_large) as error:
            raise DataError(
                f"{self.folder / name} is no image that can be read: {error}"
            ) from error
        return np.asarray(picture, "uint8").reshape(height, width, self._channels)


def read_images(folder: Path, specs: Any) -> ImageFolder:
    """Opens a folder of images for a model with one input of images.

    Args:
        folder: The folder.
        specs: The model's `InputSpec`, of shape `(None, height, width, channels)` or
            `(None, channels, height, width)`, alone or as the only one of a list or
            dictionary.

    Raises:
        DataError: If the model takes no images, or leaves their size open, or the
            folder has none.
        BackendMissingError: If Pillow is not installed.
    """
    while isinstance(specs, Mapping | list | tuple) and len(specs) == 1:
        (specs,) = specs.values() if isinstance(specs, Mapping) else specs
    shape: Any = getattr(specs, "shape", ())
    if len(shape) == 4 and None not in shape[1:]:
        if shape[3] in MODES:
            return ImageFolder(folder, (shape[1], shape[2]), shape[3])
        if shape[1] in MODES:
            size = (shape[2], shape[3])
            return ImageFolder(folder, size, shape[1], "channels_first")
    found = f" This one takes {shape}." if shape else ""
    raise DataError(
        f"{folder} is a folder, of images it seems. Those need a model with one input "
        "of shape (rows, height, width, channels), all known but the rows, and 1, 3 "
        f"or 4 channels.{found} Pass package.module:callable for anything else."
    )


def _images_below(folder: Path) -> list[str]:
    inside = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return [
        file.as_posix()
        for file in inside
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.parts)
    ]


def _pillow() -> Any:
    return require("PIL.Image", "images", "A folder of images")
