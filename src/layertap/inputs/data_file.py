"""Opens the data that a path or the name of a callable stands for."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from layertap.core.optional import import_users
from layertap.errors import DataError
from layertap.inputs.images import read_images
from layertap.inputs.lazy_array import Data, reporting
from layertap.inputs.parquet import SUFFIX as PARQUET
from layertap.inputs.parquet import parquet_files, read_parquet
from layertap.inputs.zarr_arrays import is_zarr, open_zarr
from layertap.tracing.model_structure import input_specs

_UNREADABLE = (ValueError, OSError, EOFError)
# Names that are not inputs, unless the model has inputs of these names.
_AUXILIARY = ("labels", "sample_weight", "ids")


def load_data(source: str | os.PathLike[str], model: Any) -> Data:
    """Opens data for a model.

    `source` is a `.npy`, `.npz` or `.parquet` file, a folder in Zarr's format, of
    Parquet files or of images, or `package.module:callable`.
    """
    source = os.fspath(source)
    path = Path(source)
    if path.suffix == ".npy" and path.is_file():
        with reporting(f"{path} is not a readable .npy file", *_UNREADABLE):
            return Data(np.lib.format.open_memmap(path, mode="r"))
    if path.suffix == ".npz" and path.is_file():
        return data_from_columns(_load_npz(path), model, source)
    if is_zarr(source):
        arrays = open_zarr(source, _input_names(model), _AUXILIARY)
        if isinstance(arrays, dict):
            return data_from_columns(arrays, model, source)
        return Data(arrays)
    is_parquet = path.suffix == PARQUET and path.is_file()
    files = [path] if is_parquet else parquet_files(path)
    if files:
        return data_from_columns(read_parquet(files), model, source)
    if path.is_dir():
        images = read_images(path, input_specs(model))
        labelled = images if images.labels is None else (images, images.labels)
        return Data(labelled, images.ids)
    module, colon, name = source.partition(":")
    if colon and name and all(part.isidentifier() for part in module.split(".")):
        function = getattr(import_users(module, "DATA"), name, None)
        if not callable(function):
            raise DataError(f"The module {module} has no callable {name!r}.")
        return Data(function())
    raise DataError(
        f"{source} is not supported as data. Expected an existing .npy, .npz or "
        ".parquet file, a Zarr array or group, a folder of Parquet files or of images, "
        "or package.module:callable."
    )


def data_from_columns(
    columns: Mapping[str, Any], model: Any, where: str, *, any_name: bool = False
) -> Data:
    """Splits columns into inputs, `labels`, `sample_weight` and `ids`.

    `where` holds the columns, for errors. With `any_name`, the only column may have
    another name than the only input of the model.
    """
    columns = dict(columns)
    names = _input_names(model)
    labels, weights, ids = (
        columns.pop(name, None) if name not in names else None for name in _AUXILIARY
    )
    if not columns:
        raise DataError(f"{where} holds no input for {model.name!r}.")
    inputs: Any = columns
    if len(columns) == 1 and (not names or (any_name and len(names) == 1)):
        (inputs,) = columns.values()
    if labels is None and weights is None:
        return Data(inputs, ids)
    return Data((inputs, labels) if weights is None else (inputs, labels, weights), ids)


def _input_names(model: Any) -> set[str]:
    """Returns the names of a model's inputs; the empty set if it has no graph."""
    specs = input_specs(model)
    return {spec.name for spec in keras.tree.flatten(specs)} if specs else set()


def _load_npz(path: Path) -> dict[str, Any]:
    errors = (*_UNREADABLE, TypeError, zipfile.BadZipFile, zlib.error)
    with (
        reporting(f"{path} is not a readable .npz file", *errors),
        # Opened here: NumPy leaves a file open if it is not an archive.
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        return {name: archive[name] for name in archive.files}
