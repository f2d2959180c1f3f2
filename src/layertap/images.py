"""A folder of images, as an array of rows that is read when it is sliced."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import BackendMissingError, DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageFolder:
    """All images below a folder, in the order of their paths, as one lazy array.

    Slicing it reads those files, resizes them (bilinear) and gives numbers from 0 to
    255. Nothing else is in memory.

    Args:
        folder: The folder.
        size: Height and width to resize to.
        channels: 1 grey, 3 colours, or 4 colours and transparency.

    Attributes:
        ids: The images' paths below the folder.
        labels: Where every image lies in a sub-folder: the number of that among
            `classes`; else None.
        classes: The names of the sub-folders, sorted.
        shape: `(images, height, width, channels)`.

    Raises:
        DataError: If there is no image, or one can't be read.
        BackendMissingError: If Pillow is not installed.
    """

    dtype = np.dtype("float32")

    def __init__(self, folder: Path, size: tuple[int, int], channels: int) -> None:
        _pillow()
        if channels not in MODES:
            raise DataError(
                f"Images have 1, 3 or 4 channels; the model takes {channels}."
            )
        self.folder = folder
        files = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES]
        self.ids = sorted(file.relative_to(folder).as_posix() for file in files)
        if not self.ids:
            raise DataError(
                f"{folder} has no images: no file that ends in "
                f"{', '.join(sorted(SUFFIXES))}."
            )
        above = [name.split("/")[0] if "/" in name else "" for name in self.ids]
        self.classes = [] if "" in above else sorted(set(above))
        self.labels: NDArray[np.int64] | None = None
        if self.classes:
            self.labels = np.array([self.classes.index(name) for name in above])
        self.shape = (len(self.ids), *size, channels)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        images = [self._read(name) for name in self.ids[rows]]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), "float32")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, name: str) -> NDArray[np.float32]:
        image = _pillow()
        height, width, channels = self.shape[1:]
        try:
            with image.open(self.folder / name) as opened:
                picture = opened.convert(MODES[channels])
                if picture.size != (width, height):
                    picture = picture.resize((width, height), image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"{self.folder / name} is no image that can be read: {error}"
            ) from error
        return np.asarray(picture, "float32").reshape(height, width, channels)


def read_images(folder: Path, specs: Any) -> ImageFolder:
    """Opens a folder of images for a model with one input of images.

    Args:
        folder: The folder.
        specs: The model's `InputSpec`, `(None, height, width, channels)`.

    Raises:
        DataError: If the model takes no images, or leaves their size open.
    """
    shape = getattr(specs, "shape", None)
    if shape is None or len(shape) != 4 or None in shape[1:]:
        raise DataError(
            f"{folder} is a folder, of images it seems. Those need a model with one "
            "input of shape (rows, height, width, channels), all known; pass "
            "package.module:callable for anything else."
        )
    return ImageFolder(folder, tuple(shape[1:3]), shape[3])


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise BackendMissingError(
            'A folder of images needs Pillow: pip install "layertap[images]".'
        ) from error
    return Image
