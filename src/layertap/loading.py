"""What the command line is given, as what the API takes: a model, data."""

import importlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from layertap import listening
from layertap.errors import DataError, ModelFileError, OptionError
from layertap.images import read_images

# Entries of an .npz that are no inputs, unless the model has inputs of that name.
LABELS, IDS = "labels", "ids"


class Data(NamedTuple):
    """Data as `layertap.save` takes them, and the ids of their rows."""

    data: Any
    ids: Any = None


def load_model(path: str, *, trust: bool = False, modules: Sequence[str] = ()) -> Any:
    """Loads a model.

    Args:
        path: A `.keras` or a legacy `.h5` file.
        trust: Whether code in the file may run: Keras' safe mode is off then.
        modules: Modules to import first; they register custom objects.

    Raises:
        ModelFileError: If there is no such file, or no model in it that may be
            loaded.
    """
    for module in modules:
        _import(module, "--import")
    if not Path(path).is_file():
        what = "a folder" if Path(path).is_dir() else "nothing"
        raise ModelFileError(
            f"There is {what} at {path}; expected a .keras or .h5 file."
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not trust)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ModelFileError(_why(path, error)) from error


def _why(path: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "safe_mode" in text or "safe mode" in text:
        return (
            f"{path} holds a Lambda layer or other code, which Keras' safe mode does "
            "not run. If you trust whoever made the file, pass --trust-model."
        )
    if "Could not locate" in text or "Unknown layer" in text or "register" in text:
        return (
            f"{path} needs custom objects. Name the module that registers them (with "
            "keras.saving.register_keras_serializable): --import my_package.module. "
            f"Keras says: {text[:300]}"
        )
    return (
        f"{path} can't be loaded: it is cut off, damaged, or no Keras model "
        f"({type(error).__name__}: {text[:300]}). Save it again with model.save(…)."
    )


def load_data(source: str, model: Any) -> Data:
    """Opens the data that a command names.

    Args:
        source: A `.npy` or `.npz` file, a folder of images, or
            `package.module:callable`.
        model: The model that takes them.

    Raises:
        DataError: If there are no such data, or they don't fit the model.
    """
    path = Path(source)
    if path.suffix == ".npy" and path.is_file():
        return Data(_numpy(path))
    if path.suffix == ".npz" and path.is_file():
        return _archive(path, model)
    if path.is_dir():
        images = read_images(path, listening.input_specs(model))
        labelled = images if images.labels is None else (images, images.labels)
        return Data(labelled, images.ids)
    module, colon, name = source.partition(":")
    if colon and all(part.isidentifier() for part in module.split(".")):
        found = getattr(_import(module, "DATA"), name, None)
        if not callable(found):
            raise DataError(f"The module {module} has no callable {name!r}.")
        return Data(found())
    raise DataError(
        f"{source} is no data: expected a .npy or .npz file that is there, a folder of "
        "images, or package.module:callable."
    )


def _numpy(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is no array that NumPy can read: {error}") from error


def _archive(path: Path, model: Any) -> Data:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz that NumPy can read: {error}") from error
    specs = listening.input_specs(model)
    names = {spec.name for spec in keras.tree.flatten(specs)} if specs else set()
    labels = arrays.pop(LABELS, None) if LABELS not in names else None
    ids = arrays.pop(IDS, None) if IDS not in names else None
    if not arrays:
        raise DataError(f"{path} holds no input for {model.name!r}.")
    inputs: Any = arrays
    if len(arrays) == 1 and len(names) <= 1:
        (inputs,) = arrays.values()
    return Data(inputs if labels is None else (inputs, labels), ids)


def _import(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(
            f"{where}: the module {name} can't be imported from {Path.cwd()}: {error}"
        ) from error
