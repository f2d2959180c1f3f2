"""What pyproject.toml and the files next to it say about the package."""

import re
import tomllib
from importlib import metadata

import pytest

import layertap
from tests.support.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
BACKENDS = {"tensorflow", "jax", "torch"}


def lines_of(name):
    return (ROOT / name).read_text("utf-8").splitlines()


def test_the_version_is_that_of_the_project():
    assert layertap.__version__ == metadata.version("layertap") == PROJECT["version"]


def test_all_has_every_extra_but_backends_and_the_demo():
    (itself,) = EXTRAS["all"]
    name, extras = re.fullmatch(r"(\w+)\[(.*)\]", itself).groups()
    assert name == PROJECT["name"]
    assert sorted(extras.split(",")) == sorted({*EXTRAS} - BACKENDS - {"all", "demo"})


@pytest.mark.parametrize("extra", sorted({*EXTRAS} - BACKENDS - {"all"}))
def test_an_extra_says_what_it_brings(extra):
    (line,) = (x for x in lines_of("pyproject.toml") if x.startswith(f"{extra} = ["))
    assert re.search(r"\] # \w.{8,}", line)


def test_every_python_that_is_named_is_tested():
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: 3." in c}
    (others,) = (x for x in lines_of("Makefile") if x.startswith("PYTHONS := "))
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert named == {oldest, *others.removeprefix("PYTHONS := ").split()}


def test_the_changelog_has_the_form_of_keep_a_changelog():
    releases = [line for line in lines_of("CHANGELOG.md") if line.startswith("## ")]
    assert re.fullmatch(
        rf"## \[(Unreleased|{re.escape(PROJECT['version'])})\].*", releases[0]
    )
    kinds = [line for line in lines_of("CHANGELOG.md") if line.startswith("### ")]
    assert {*kinds} <= {"### Added", "### Changed", "### Fixed", "### Removed"}
    assert kinds[0] == "### Added"


def test_a_citation_names_this_version():
    facts = dict(
        line.split(": ", 1)
        for line in lines_of("CITATION.cff")
        if line[:1].isalpha()
        if ": " in line
    )
    assert facts["cff-version"] == "1.2.0"
    assert facts["version"] == PROJECT["version"]
    assert facts["license"] == PROJECT["license"]
    assert facts["repository-code"].strip('"') == PROJECT["urls"]["Source"]
