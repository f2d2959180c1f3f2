"""Imports of modules that may be missing: those of an extra, or the user's own."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layertap.errors import BackendMissingError, OptionError

# A callable as the command line accepts it.
CALLABLE = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<name>\w+)")


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


def import_users(module: str, argument: str) -> Any:
    """Imports a module that the user names; the working directory is on its path."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except Exception as error:  # The module runs any code.
        raise OptionError(
            f"{argument}: the module {module} can't be imported from {Path.cwd()}: "
            f"{type(error).__name__}: {error}"
        ) from error


def import_callable(text: str, argument: str) -> Callable[..., Any]:
    """Imports a callable that the user names as `package.module:callable`."""
    words = CALLABLE.fullmatch(text)
    if words is None:
        raise OptionError(
            f"{argument} is invalid. Expected package.module:callable. Received "
            f"{text!r}."
        )
    found = getattr(import_users(words["module"], argument), words["name"], None)
    if not callable(found):
        raise OptionError(
            f"{argument}: the module {words['module']} has no callable "
            f"{words['name']!r}."
        )
    return found
