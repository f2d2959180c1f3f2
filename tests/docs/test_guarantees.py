"""Every test that docs/guarantees.md names exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "guarantees.md").read_text("utf-8")


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_a_named_file_exists(file):
    assert (TESTS / file).is_file()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`…?(\w*test_\w+|(?<=…)_\w+)…?`", PAGE)))
)
def test_a_named_test_exists(name):
    sources = (path.read_text("utf-8") for path in TESTS.rglob("*.py"))
    assert any(re.search(rf"def \w*{name}", source) for source in sources)
