"""Loads and compiles models from `.keras` and `.h5` files."""

import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from layertap.core.optional import import_users
from layertap.errors import ModelFileError
from layertap.tracing.keras_internals import RELEASE

_SUFFIXES = (".keras", ".h5", ".hdf5")
# The most characters of an error of Keras that are shown.
_LONGEST = 300
# The first release of Keras that has its safe mode for .h5 files, too.
_SAFE_H5 = (3, 11, 3)
# How Keras reports an unknown class, in .keras and in .h5 files.
_CUSTOM = re.compile(
    r"(?:Could not (?:locate|deserialize) (?:class|function)|Unknown \w+:)"
    r" '(?P<name>[^']+)'"
)


def opened(model: Any, *, compiled: bool = False) -> Any:
    """Returns a model; a path is loaded first, in Keras' safe mode.

    See `load_model` for `compiled`.
    """
    if isinstance(model, str | os.PathLike):
        return load_model(os.fspath(model), compiled=compiled)
    return model


def load_model(
    path: str,
    *,
    trust: bool = False,
    modules: Sequence[str] = (),
    objects: Mapping[str, Any] | None = None,
    compiled: bool = False,
) -> Any:
    """Loads a model from a `.keras` or a legacy `.h5` file.

    Without `trust`, Keras' safe mode is on, or the file is refused: no code in it runs.
    `modules` are imported first, to register custom objects; `objects` are further ones
    by name. With `compiled`, the model has the loss and the metrics of the file.
    """
    for module in modules:
        import_users(module, "--import")
    file = Path(path)
    _check_file(file, trust)
    try:
        model = keras.models.load_model(
            path, dict(objects or {}), compile=False, safe_mode=not trust
        )
    except Exception as error:  # A model file builds any classes with any errors.
        raise ModelFileError(_explain(path, error)) from error
    if compiled:
        with keras.saving.custom_object_scope(dict(objects or {})):
            compile_as_saved(model, path)
    return model


def compile_as_saved(model: Any, path: str) -> None:
    """Compiles a model, or a part of one, with the loss and metrics of a model file.

    Its optimizer is a new one. Of a model that was not compiled, nothing is taken over.
    """
    try:
        arguments = _compile_arguments(path)
        if arguments.get("loss") is not None:
            model.compile(**arguments)
    except Exception as error:  # Custom losses raise any errors.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ModelFileError(
            f"The loss and metrics of {path} can't be restored ({reason}). Name the "
            "module that registers them, --import my_package.module, or pass --loss."
        ) from error


def _compile_arguments(path: str) -> dict[str, Any]:
    """Returns what a model file was compiled with, but its optimizer."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json")).get("compile_config") or {}
        config.pop("optimizer", None)
        return dict(keras.saving.deserialize_keras_object(config))
    import h5py

    with h5py.File(path) as file:
        config = json.loads(file.attrs.get("training_config", "{}"))
    loss = _restored(keras.losses.deserialize, config.get("loss"))
    keras.tree.map_structure(keras.losses.get, loss)
    metrics = {
        name: _restored(keras.metrics.deserialize, config.get(name))
        for name in ("metrics", "weighted_metrics")
    }
    return {"loss": loss, "loss_weights": config.get("loss_weights"), **metrics}


def _restored(restore: Callable[[Any], Any], part: Any) -> Any:
    """Restores the losses or metrics in the training configuration of a .h5 file."""
    if isinstance(part, dict) and "class_name" not in part:
        return {name: _restored(restore, member) for name, member in part.items()}
    if isinstance(part, list):
        return [_restored(restore, member) for member in part]
    if isinstance(part, str):
        return keras.saving.get_registered_object(part) or part
    return None if part is None else restore(part)


def _check_file(file: Path, trust: bool) -> None:
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise ModelFileError(f"{file} {kind}. Expected a .keras or .h5 file.")
    if file.suffix not in _SUFFIXES:
        raise ModelFileError(
            f"{file} is not a model. Expected one that ends in {', '.join(_SUFFIXES)}."
        )
    if file.suffix == ".keras" and not zipfile.is_zipfile(file):
        raise ModelFileError(
            f"{file} is cut off, or is not a model. Expected a zip archive, as every "
            ".keras file is. Save it again with model.save(…)."
        )
    if file.suffix != ".keras" and not trust and RELEASE < _SAFE_H5:
        raise ModelFileError(
            f"{file} may hold code, and Keras {keras.__version__} runs code in "
            f"{file.suffix} files even in its safe mode. If you trust the file's "
            "author, pass --trust-model. Else save it as .keras, or install a newer "
            "Keras."
        )


def _explain(path: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "safe_mode" in text or "safe mode" in text:
        return (
            f"{path} holds a Lambda layer or other code, which Keras' safe mode does "
            "not run. If you trust the file's author, pass --trust-model."
        )
    version = _keras_version(path)
    old = bool(version) and int(version.partition(".")[0]) < 3
    custom = _CUSTOM.search(text)
    # A .keras file of Keras 2 needs Keras' own classes of that time.
    if custom and not (old and zipfile.is_zipfile(path)):
        return (
            f"{path} needs {custom['name']}, which is not part of Keras. Name the "
            "module that registers it (with keras.saving.register_keras_serializable): "
            "--import my_package.module"
        )
    # Keras writes the configurations of all layers first, and the cause last.
    text = text.rpartition("Exception encountered: ")[2]
    text = re.split(r"\. (?:Make sure|Full object config)", text)[0]
    cause = f"{type(error).__name__}: {text[:_LONGEST]}"
    if old:
        return (
            f"{path} was saved by Keras {version}, and Keras {keras.__version__} can't "
            f"load it ({cause}). Load it with Keras 2 (tf_keras) and save it as .h5, "
            "or build the model again and load its weights: model.load_weights(path)."
        )
    if version:
        return f"{path}, saved by Keras {version}, can't be loaded ({cause})."
    return (
        f"{path} can't be loaded. It is cut off, damaged, or not a Keras model "
        f"({cause}). Save it again with model.save(…)."
    )


def _keras_version(path: str) -> str:
    """Returns the version of Keras that saved a model, if its file names one."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            import h5py

            with h5py.File(path) as file:
                version = file.attrs["keras_version"]
    except Exception:  # A damaged file raises any errors.
        return ""
    text = version.decode() if isinstance(version, bytes) else str(version)
    return text if re.fullmatch(r"\d+\.[\w.+-]+", text) else ""
