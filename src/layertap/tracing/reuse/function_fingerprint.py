"""Fingerprints of functions: of their code, defaults and closures."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import keras
import numpy as np

from layertap.tracing.keras_internals import without_importing_tensorflow


def function_fingerprint(function: Callable[..., Any]) -> str:
    """Returns a function's name and a digest of its code, defaults and closures.

    Names that the code looks up when it runs do not count.
    """
    owner = function if hasattr(function, "__qualname__") else type(function)
    with without_importing_tensorflow():
        code = digest(_content(function, ()))
    return f"{owner.__module__}.{owner.__qualname__} ({code})"


def _content(part: Any, within: tuple[int, ...]) -> Any:
    """Returns the content of a function, or of a part of one, as JSON."""
    if id(part) in within:
        # A function that refers to itself.
        return "…"
    within = (*within, id(part))
    if isinstance(part, functools.partial):
        part = [part.func, part.args, part.keywords]
    elif hasattr(part, "__code__"):
        cells = [cell.cell_contents for cell in part.__closure__ or ()]
        part = [part.__code__, part.__defaults__, part.__kwdefaults__, cells]
    elif isinstance(part, CodeType):
        part = [part.co_code, part.co_names, part.co_consts]
    elif isinstance(part, keras.Operation):
        part = [type(part).__qualname__, configuration(part)]
    elif isinstance(part, np.ndarray | np.generic):
        part = [part.shape, part.dtype.name, part.tobytes()]
    if isinstance(part, Mapping):
        part = list(part.items())
    if isinstance(part, set | frozenset):
        part = sorted(map(repr, part))
    if isinstance(part, list | tuple):
        return [_content(member, within) for member in part]
    if part is None or isinstance(part, bool | int | float | complex | str | bytes):
        return repr(part)
    owner = part if hasattr(part, "__qualname__") else type(part)
    return owner.__qualname__


def digest(content: Any) -> str:
    """Returns a digest of content that JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def configuration(operation: keras.Operation) -> dict[str, Any] | None:
    """Returns a configuration without the name, which Keras numbers; or None."""
    try:
        config = operation.get_config()
        return {key: config[key] for key in config if key != "name"}
    except Exception:
        # There may be none, and any error is raised then.
        return None
