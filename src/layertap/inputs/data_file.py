"""What the command line is given, as what the API takes: a model, data."""

import importlib
import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from layertap.errors import DataError, ModelFileError, OptionError
from layertap.inputs.images import read_images
from layertap.inputs.parquet import SUFFIX as PARQUET
from layertap.inputs.parquet import parquet_files, read_parquet
from layertap.inputs.zarr_arrays import is_zarr, open_zarr
from layertap.tracing.model_structure import input_specs

SUFFIXES = (".keras", ".h5", ".hdf5")
# The first release of Keras that has its safe mode for .h5 files, too.
SAFE_H5 = (3, 11, 3)
# How Keras says that it does not know a class, in .keras and in .h5 files.
CUSTOM = re.compile(
    r"(?:Could not (?:locate|deserialize) (?:class|function)|Unknown \w+:)"
    r" '(?P<name>[^']+)'"
)
UNREADABLE = (ValueError, OSError, EOFError)
# Entries of an .npz that are no inputs, unless the model has inputs of that name.
ALONG = ("labels", "sample_weight", "ids")


class Data(NamedTuple):
    """Data as `layertap.save` takes them, and the ids of their rows."""

    data: Any
    ids: Any = None


def load_model(
    path: str,
    *,
    trust: bool = False,
    modules: Sequence[str] = (),
    objects: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a model.

    Args:
        path: A `.keras` or a legacy `.h5` file.
        trust: Whether code in the file may run: Keras' safe mode is off then. Else it
            is on, or the file is not loaded.
        modules: Modules to import first; they register custom objects.
        objects: Custom objects by their names, beside those that are registered.

    Raises:
        ModelFileError: If there is no such file, or no model in it that may be
            loaded.
    """
    for module in modules:
        _import(module, "--import")
    file = Path(path)
    if not file.is_file():
        what = "a folder" if file.is_dir() else "nothing"
        raise ModelFileError(
            f"There is {what} at {path}; expected a .keras or .h5 file."
        )
    if file.suffix not in SUFFIXES:
        raise ModelFileError(
            f"{path} is no model by its name; expected one that ends in "
            f"{', '.join(SUFFIXES)}."
        )
    if file.suffix == ".keras" and not zipfile.is_zipfile(file):
        raise ModelFileError(
            f"{path} is cut off, or was never a model: a .keras file is a zip archive. "
            "Save it again with model.save(…)."
        )
    if file.suffix != ".keras" and not trust and _version() < SAFE_H5:
        raise ModelFileError(
            f"{path} may hold code, and Keras {keras.__version__} runs what is in an "
            f"{file.suffix} file whatever its safe mode. If you trust whoever made the "
            "file, pass --trust-model; or save it as .keras, or install a newer Keras."
        )
    try:
        return keras.models.load_model(
            path, dict(objects or {}), compile=False, safe_mode=not trust
        )
    except Exception as error:  # A model file builds any classes with any errors.
        raise ModelFileError(_why(path, error)) from error


def compile_as_saved(model: Any, path: str) -> None:
    """Compiles a model as the one in a file was; its optimizer is a new one.

    Args:
        model: The model, or a part of it with the same outputs.
        path: A `.keras` file. Of any other, or of a model that was not compiled, there
            is nothing to compile with, and nothing is done.

    Raises:
        ModelFileError: If that can't be had, as it takes what is not Keras' own.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json")).get("compile_config")
    if not config:
        return
    try:
        model.compile_from_config(config)
    except Exception as error:  # Custom losses raise what they like.
        raise ModelFileError(_why(path, error)) from error


def _version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", keras.__version__)[:3]))


def _why(path: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "safe_mode" in text or "safe mode" in text:
        return (
            f"{path} holds a Lambda layer or other code, which Keras' safe mode does "
            "not run. If you trust whoever made the file, pass --trust-model."
        )
    custom = CUSTOM.search(text)
    if custom:
        return (
            f"{path} needs {custom['name']}, which is not Keras' own. Name the module "
            "that registers it (with keras.saving.register_keras_serializable): "
            "--import my_package.module"
        )
    return (
        f"{path} can't be loaded: it is cut off, damaged, or no Keras model "
        f"({type(error).__name__}: {text[:300]}). Save it again with model.save(…)."
    )


def load_data(source: str | os.PathLike[str], model: Any) -> Data:
    """Opens the data that a command names.

    Args:
        source: A `.npy`, `.npz` or `.parquet` file, a folder in Zarr's format, of
            Parquet files or of images, or `package.module:callable`.
        model: The model that takes them.

    Raises:
        DataError: If there are no such data, or they don't fit the model.
        BackendMissingError: If what reads them is not installed.
    """
    source = os.fspath(source)
    path = Path(source)
    if path.suffix == ".npy" and path.is_file():
        return Data(_numpy(path))
    if path.suffix == ".npz" and path.is_file():
        return _archive(path, model)
    if is_zarr(source):
        found = open_zarr(source, _input_names(model), ALONG)
        return named(found, model, source) if isinstance(found, dict) else Data(found)
    if path.suffix == PARQUET and path.is_file():
        return named(read_parquet([path]), model, source)
    if path.is_dir():
        return _folder(path, model)
    module, colon, name = source.partition(":")
    if colon and name and all(part.isidentifier() for part in module.split(".")):
        made = getattr(_import(module, "DATA"), name, None)
        if not callable(made):
            raise DataError(f"The module {module} has no callable {name!r}.")
        return Data(made())
    raise DataError(
        f"{source} is no data: expected a .npy, .npz or .parquet file that is there, a "
        "Zarr array or group, a folder of Parquet files or of images, or "
        "package.module:callable."
    )


def _folder(path: Path, model: Any) -> Data:
    files = parquet_files(path)
    if files:
        return named(read_parquet(files), model, str(path))
    images = read_images(path, input_specs(model))
    labelled = images if images.labels is None else (images, images.labels)
    return Data(labelled, images.ids)


def _input_names(model: Any) -> set[str]:
    """Returns the names of the inputs of a model; none, if it has no graph."""
    specs = input_specs(model)
    return {spec.name for spec in keras.tree.flatten(specs)} if specs else set()


def _numpy(path: Path) -> Any:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except UNREADABLE as error:
        raise DataError(f"{path} is no array that NumPy can read: {error}") from error


def _archive(path: Path, model: Any) -> Data:
    try:
        # Opened here: NumPy leaves a file open in which it finds no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (*UNREADABLE, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no .npz that NumPy can read: {error}") from error
    return named(arrays, model, str(path))


def named(
    arrays: Mapping[str, Any], model: Any, where: str, *, any_name: bool = False
) -> Data:
    """Returns arrays with names as data: inputs, and what goes along.

    Args:
        arrays: Inputs by name, and `labels`, `sample_weight` and `ids`.
        model: The model that takes them.
        where: What holds them, for errors.
        any_name: Whether the only input of a model may have another name here.

    Raises:
        DataError: If there is no input among them.
    """
    arrays = dict(arrays)
    names = _input_names(model)
    labels, weights, ids = (
        arrays.pop(name, None) if name not in names else None for name in ALONG
    )
    if not arrays:
        raise DataError(f"{where} holds no input for {model.name!r}.")
    inputs: Any = arrays
    if len(arrays) == 1 and (not names or (any_name and len(names) == 1)):
        (inputs,) = arrays.values()
    if labels is None and weights is None:
        return Data(inputs, ids)
    return Data((inputs, labels) if weights is None else (inputs, labels, weights), ids)


def _import(name: str, where: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:  # It runs whatever stands in it.
        raise OptionError(
            f"{where}: the module {name} can't be imported from {Path.cwd()}: "
            f"{type(error).__name__}: {error}"
        ) from error
