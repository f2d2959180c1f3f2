"""Keeps TensorFlow's start-up messages off the terminal, and nothing else.

Keras imports TensorFlow, where it is installed, on the other backends too, and as late
as it can. Two of its libraries log while they are loaded, before anything looks at
`TF_CPP_MIN_LOG_LEVEL`; so file descriptor 2 leads nowhere for that long.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType


def quiet_start() -> None:
    """Quiets the backends, from now on, in this process and those it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds TensorFlow as always, to be loaded in silence."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SilentLoader(spec.loader.name, spec.loader.path)
        return spec


class _SilentLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _silence():
            super().exec_module(module)


@contextmanager
def _silence() -> Iterator[None]:
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
