"""A folder of images as an array of rows, read when it is sliced."""

import copy
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.core.optional import require
from layertap.errors import DataError, OptionError, check_number
from layertap.inputs.lazy_array import LazyRows, Versions, file_versions, reporting
from layertap.store.storage.ahead import map_ahead

MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}
# Pillow recognizes these formats, but needs other programs to read them.
_UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# How many images are checked ahead, at most.
_CHECKED = 1024


def images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    channels: int | None = None,
    data_format: Literal["channels_last", "channels_first"] | None = None,
    interpolation: str = "bilinear",
    crop_to_aspect_ratio: bool = False,
    preprocess: Callable[[Any], Any] | None = None,
    skip_bad: bool = False,
) -> "ImageFolder":
    """Opens a folder of images as data, read batch by batch.

    The images are all files below the folder with a suffix that Pillow reads, in the
    order of their paths. Hidden files and folders are left out. `keras.utils.load_img`
    reads them: as numbers from 0 to 255, without regard to an orientation in the file,
    and only the first frame or page of a file. Of images with 16 bits, the upper 8 bits
    are kept.

    A save of the result has the images' paths as ids. If all images are in sub-folders,
    their numbers are the labels, and `class_names` of the saved values has the names.

    Args:
        folder: The folder.
        size: Height and width to resize to; by default those of the model's input.
        channels: 1 grey, 3 colours, or 4 colours and transparency; by default those of
            the model's input.
        data_format: See `keras.config.image_data_format`; by default that of the
            model's input.
        interpolation: How to resize, see `keras.utils.load_img`.
        crop_to_aspect_ratio: Whether to crop images in the center to the aspect ratio
            of `size` before resizing. By default they are distorted.
        preprocess: A function of a batch of images, as the model needs it, such as
            `keras.applications.inception_v3.preprocess_input`. It must treat each image
            by itself.
        skip_bad: Whether to leave out images that can't be decoded. All are read once
            more to find them; `skipped` of the saved values names them. By default they
            are errors.

    Returns:
        The images, with `ids`, `labels`, `class_names`, `skipped`, and `passed_over`:
        how many other files the folder has, by suffix.

    Raises:
        DataError: If there are no images, or a file can't be read.
        OptionError: If an option is invalid.
        BackendMissingError: If Pillow is not installed.

    Example:
    ```python
    photos = layertap.images("photos/", (299, 299),
                             preprocess=keras.applications.inception_v3.preprocess_input)
    saved = layertap.save(model, photos, "values.zarr")
    saved.class_names[saved.labels[0]]
    ```
    """
    resizing = (interpolation, crop_to_aspect_ratio)
    options = (channels, data_format, *resizing, preprocess, skip_bad)
    return ImageFolder(Path(folder), size, *options)


@dataclass(eq=False)
class ImageFolder(LazyRows):
    """All images below a folder: see `layertap.images`.

    Attributes:
        ids: The images' paths below the folder, with `/` between their parts.
        labels: For each image, the number of its sub-folder among `class_names`. None
            if an image is not in a sub-folder.
        class_names: The names of the sub-folders with images, sorted.
        skipped: The images that are left out, and why.
        passed_over: How many other files the folder has, by suffix.
    """

    folder: Path
    size: tuple[int, int] | None = None
    channels: int | None = None
    data_format: str | None = None
    interpolation: str = "bilinear"
    crop_to_aspect_ratio: bool = False
    preprocess: Callable[[Any], Any] | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        methods = [method.name.lower() for method in _pillow().Resampling]
        if self.interpolation not in methods:
            raise OptionError(
                "`interpolation` is invalid. Expected one of "
                f"{', '.join(methods)}. Received {self.interpolation!r}."
            )
        if self.size is not None and np.shape(self.size) != (2,):
            raise OptionError(
                f"`size` is invalid. Expected (height, width). Received {self.size!r}."
            )
        for number in self.size or ():
            check_number("`size`", number, 1)
        # A worker may work elsewhere.
        self.folder = self.folder.absolute()
        names, self.passed_over = _list_images(self.folder)
        self.skipped = self._undecodable(names) if self.skip_bad else {}
        self.ids = [name for name in names if name not in self.skipped]
        if not self.ids:
            is_folder = self.folder.is_dir()
            problem = "has no images" if is_folder else "is not a folder"
            raise DataError(
                f"{self.folder} {problem}. Expected files that Pillow reads, as "
                f".png or .jpg. Received {len(self.skipped)} that can't be decoded,"
                f" and {self.passed_over.total()} others."
            )
        above = [name.partition("/")[0] if "/" in name else "" for name in self.ids]
        self.class_names: list[str] = []
        self.labels: NDArray[np.int64] | None = None
        if "" not in above:
            folders, self.labels = np.unique(above, return_inverse=True)
            self.class_names = folders.tolist()

    def fitted(self, specs: Any) -> "ImageFolder":
        """Returns the same images in the size and the layout of a model's input."""
        while isinstance(specs, Mapping | list | tuple) and len(specs) == 1:
            (specs,) = specs.values() if isinstance(specs, Mapping) else specs
        shape: Any = getattr(specs, "shape", ())
        fitted = copy.copy(self)
        if len(shape) == 4:
            first = shape[3] not in MODES and shape[1] in MODES
            *sizes, channels = (*shape[2:], shape[1]) if first else shape[1:]
            fitted.size = self.size or (None if None in sizes else tuple(sizes))
            fitted.channels = self.channels or channels
            layout = "channels_first" if first else "channels_last"
            fitted.data_format = self.data_format or layout
        if fitted.size is None or fitted.channels not in (None, *MODES):
            received = f" Received {shape}." if shape else ""
            raise DataError(
                f"{self.folder} is read as a folder of images, which does not fit the "
                "model. Expected one input of shape (rows, height, width, channels), "
                f"all known but the rows, and 1, 3 or 4 channels.{received} Pass "
                "package.module:callable that returns layertap.images(folder, size)."
            )
        return fitted

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Its shape, rows first."""
        return (len(self.ids), *self._sample.shape[1:])

    @cached_property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Its dtype."""
        return self._sample.dtype

    @cached_property
    def _sample(self) -> NDArray[Any]:
        return self.read(0, 1)

    def versions(self) -> Versions:
        """See `FromFiles`."""
        return file_versions(self.folder / name for name in self.ids)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Reads, converts, resizes and preprocesses images."""
        size = self.fitted(None).size
        images = []
        for name in self.ids[start:stop]:
            content = self._content(name)
            with reporting(f"{self.folder / name} is not a readable image", Exception):
                images.append(self._decode(content, size))
        batch = np.stack(images)
        if self.preprocess is None:
            return batch
        rows, batch = len(batch), keras.ops.convert_to_numpy(self.preprocess(batch))
        if batch.shape[:1] != (rows,):
            raise OptionError(
                "`preprocess` has to return one row for each image. Expected shape "
                f"({rows}, ...). Received {batch.shape}."
            )
        return batch

    def _undecodable(self, names: list[str]) -> dict[str, str]:
        """Returns the images that can't be decoded, and why."""
        problems = map_ahead(self._problem, names, most=_CHECKED)
        return {n: why for n, why in zip(names, problems, strict=True) if why}

    def _problem(self, name: str) -> str:
        content = self._content(name)
        try:
            self._decode(content)
        except Exception as error:  # Pillow raises any errors for damaged files.
            return str(error)[:300]
        return ""

    def _content(self, name: str) -> io.BytesIO:
        # A file that can't be read, say because a disk is gone, is not a bad image.
        with reporting(f"{self.folder / name} can't be read", OSError):
            return io.BytesIO((self.folder / name).read_bytes())

    def _decode(self, content: Any, size: tuple[int, int] | None = None) -> Any:
        with _pillow().open(content) as opened:
            if opened.mode[0] in "IF":
                content = _eight_bits(opened)
        picture = keras.utils.load_img(
            content,
            MODES[self.channels or 3],
            size,
            self.interpolation,
            self.crop_to_aspect_ratio,
        )
        layout = self.data_format or keras.config.image_data_format()
        return keras.utils.img_to_array(picture, layout, "float32")


def _list_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Lists the images below a folder, sorted, and counts other files by suffix."""
    image = _pillow()
    readable = image.registered_extensions().items()
    formats = image.OPEN.keys() - _UNREADABLE
    suffixes = {suffix for suffix, kind in readable if kind in formats}
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    visible = [f for f in files if not any(part.startswith(".") for part in f.parts)]
    names = [f.as_posix() for f in visible if f.suffix.lower() in suffixes]
    others = Counter(f.suffix for f in visible if f.suffix.lower() not in suffixes)
    return sorted(names), others


def _eight_bits(opened: Any) -> io.BytesIO:
    """Returns an image of 16 bits with their upper 8, as TensorFlow reads it."""
    pixels = np.asarray(opened)
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels are {pixels.dtype}, expected 8 or 16 bits")
    content = io.BytesIO()
    _pillow().fromarray((pixels >> 8).astype("uint8")).save(content, "png")
    return content


def _pillow() -> Any:
    return require("PIL.Image", "images", "A folder of images")
