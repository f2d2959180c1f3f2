"""Packages that only some uses of layertap need; each belongs to an extra."""

import importlib
from typing import Any

from layertap.errors import BackendMissingError


def require(package: str, extra: str, use: str) -> Any:
    """Imports a package, or raises an error that names the extra to install.

    Example:
    >>> require("json", "none", "This example").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendMissingError(
            f"{use} needs {package}, which can't be imported: {error}. Install it with "
            f'pip install "layertap[{extra}]".'
        ) from error


def require_keras() -> Any:
    """Imports Keras, or raises an error that says how to install its backend."""
    try:
        return importlib.import_module("keras")
    except (ImportError, ValueError) as error:
        raise BackendMissingError(
            f"Keras can't be imported: {error}. Install its backend, for instance with "
            'pip install "layertap[tensorflow]" (or [jax], [torch]), or set '
            "KERAS_BACKEND to one that is installed."
        ) from error
