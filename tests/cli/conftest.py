"""Files that commands read. What they import is imported when they are made."""

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of models and data, good and bad."""
    from tests.support.command_files import make_files

    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


@pytest.fixture
def here(files, monkeypatch) -> Path:
    """The folder of `files`, to work in."""
    from tests.support.command_files import forget_parts

    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    forget_parts()
    return files


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """The folder of plans that commands keep: not that of the user."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
