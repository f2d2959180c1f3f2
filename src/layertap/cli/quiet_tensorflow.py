"""Hides TensorFlow's start-up messages, and nothing else.

Keras imports TensorFlow, where it is installed, also on the other backends, and late.
Two of its libraries log while they are loaded, before `TF_CPP_MIN_LOG_LEVEL` counts.
During that import, file descriptor 2 leads nowhere.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


def quiet_start() -> None:
    """Quiets the backends in this process and in those that it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds TensorFlow, and has it loaded in silence."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "tensorflow":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SilentLoader(spec.loader.name, spec.loader.path)
        return spec


class _SilentLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        sys.stderr.flush()
        saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            super().exec_module(module)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)
