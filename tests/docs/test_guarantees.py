"""Every test that the pages of guarantees name exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMES = ("guarantees.md", "guarantees-storage.md")
PAGES = [(TESTS.parent / "docs" / name).read_text("utf-8") for name in NAMES]
PAGE = "\n".join(PAGES)


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_a_named_file_exists(file):
    assert (TESTS / file).is_file()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`…?(\w*test_\w+|(?<=…)_\w+)…?`", PAGE)))
)
def test_a_named_test_exists(name):
    sources = (path.read_text("utf-8") for path in TESTS.rglob("*.py"))
    assert any(re.search(rf"def \w*{name}", source) for source in sources)


def test_each_page_names_tests():
    assert all("test_" in page for page in PAGES)
