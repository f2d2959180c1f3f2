"""Examples in docstrings run, with the results that they show."""

import doctest
import importlib

import pytest

from tests.support.source import MODULES, PACKAGE

WITH_KERAS = ("tracing", "planning", "pipeline", "analysis", "inputs")


def module(path):
    parts = ("layertap", *path.relative_to(PACKAGE).with_suffix("").parts)
    kind = pytest.mark.one_backend if parts[1] in WITH_KERAS else ()
    return pytest.param(".".join(parts), marks=kind)


@pytest.mark.parametrize(
    "name", [module(path) for path in MODULES if ">>>" in path.read_text("utf-8")]
)
def test_examples(name):
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0
