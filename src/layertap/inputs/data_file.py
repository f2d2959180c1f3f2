"""Opens the data that a path or the name of a callable stands for."""

import os
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np

from layertap.core.address import IDS, LABELS, SAMPLE_WEIGHT
from layertap.core.optional import CALLABLE, import_callable
from layertap.errors import DataError, OptionError
from layertap.inputs.columns import Table
from layertap.inputs.images import ImageFolder
from layertap.inputs.lazy_array import reporting
from layertap.inputs.parquet import SUFFIX as PARQUET
from layertap.inputs.parquet import parquet_files, read_parquet
from layertap.inputs.zarr_arrays import is_zarr, open_zarr

_UNREADABLE = (ValueError, OSError, EOFError)


def load_data(
    source: str | os.PathLike[str],
    specs: Any,
    columns: Collection[str | None] = (),
    **images: Any,
) -> Any:
    """Opens data for a model with these input specs, or None.

    `source` is a `.npy`, `.npz` or `.parquet` file, a folder in Zarr's format, of
    Parquet files or of images, or `package.module:callable`. Of a group of Zarr,
    `columns` are read too. `images` are options of a folder of images.
    """
    source = os.fspath(source)
    path = Path(source)
    data = _open_arrays(source, path, specs, columns)
    if data is None and path.is_dir():
        return ImageFolder(path, **images)
    if any(images.values()):
        raise OptionError(
            f"{source} is not a folder of images, but there are options for images: "
            f"{', '.join(f'`{name}`' for name in images if images[name])}. Leave "
            "them out."
        )
    if data is not None:
        return data
    if CALLABLE.fullmatch(source):
        return import_callable(source, "DATA")()
    raise DataError(
        f"{source} is not supported as data. Expected an existing .npy, .npz or "
        ".parquet file, a Zarr array or group, a folder of Parquet files or of images, "
        "or package.module:callable."
    )


def _open_arrays(
    source: str, path: Path, specs: Any, columns: Collection[str | None]
) -> Any:
    """Opens an array or a table; None if there is none at the path."""
    if path.suffix == ".npy" and path.is_file():
        with reporting(f"{path} is not a readable .npy file", *_UNREADABLE):
            return np.lib.format.open_memmap(path, mode="r")
    if path.suffix == ".npz" and path.is_file():
        table = Table(_load_npz(path))
        table.file = str(path)
        return table
    if not source.rstrip("/").endswith(PARQUET) and is_zarr(source):
        inputs = {spec.name for spec in keras.tree.flatten(specs)} if specs else ()
        names = {*inputs, *filter(None, columns)}
        arrays = open_zarr(source, names, (LABELS, SAMPLE_WEIGHT, IDS))
        return Table(arrays) if isinstance(arrays, dict) else arrays
    files = parquet_files(source)
    return Table(read_parquet(files)) if files else None


def _load_npz(path: Path) -> dict[str, Any]:
    errors = (*_UNREADABLE, TypeError, zipfile.BadZipFile, zlib.error)
    with (
        reporting(f"{path} is not a readable .npz file", *errors),
        # Opened here: NumPy leaves a file open if it is not an archive.
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        return {name: archive[name] for name in archive.files}
