"""The pages of docs/: length, links, places in the site, entries of the reference."""

import re

import pytest

import layertap
from layertap import errors
from tests.support import guides
from tests.support.source import PACKAGE, ROOT, name_of

LINES = 200
PAGES = sorted(guides.DOCS.rglob("*.md"))
SITE = (ROOT / "mkdocs.yml").read_text("utf-8")
REFERENCE = sorted((guides.DOCS / "reference").glob("*.md"))
# Classes that functions return, beyond `layertap.__all__`.
RETURNED = (
    "analysis.importance_report.BranchImportance",
    "core.plan.records.Join",
    "inputs.images.ImageFolder",
    "recording.course.Course",
    "results.statistics.histogram.Histogram",
    "results.statistics.moments.Statistics",
    "store.reading.array.LazyArray",
)


def targets(page):
    """Lists where the links and pictures of a page lead, those of other hosts apart."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in links if not re.match(r"[a-z]+:", link)]


def anchors(page):
    """Returns the names of the headings of a page, as the site makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", word) for word in words}


def entries():
    """Lists what the pages of the reference describe."""
    texts = "\n".join(page.read_text("utf-8") for page in REFERENCE)
    return re.findall(r"^::: (\S+)$", texts, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_short(page):
    assert page.read_text("utf-8").count("\n") <= LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_its_place_in_the_site(page):
    places = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", SITE, re.MULTILINE)
    assert places.count(str(page.relative_to(guides.DOCS))) == 1


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name_of
)
def test_links_lead_to_a_file_and_a_heading(page):
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        if file.suffix == ".md" and anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_runs_or_is_marked_as_text(page):
    # Any other language would look like code that runs, and be skipped.
    assert set(guides.languages(page)) <= {*guides.RUN, *guides.SHOWN}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_output_stands_below_the_block_that_prints_it(page):
    shown = [language for language in guides.languages(page) if language != "text"]
    pairs = zip(["", *shown], shown, strict=False)
    assert ("", "") not in pairs


@pytest.mark.parametrize("name", layertap.__all__)
def test_a_public_name_has_an_entry(name):
    place = "layertap.errors" if name in vars(errors) else "layertap"
    assert entries().count(f"{place}.{name}") == 1


def test_each_error_has_an_entry():
    found = {
        f"layertap.errors.{name}"
        for name, error in vars(errors).items()
        if isinstance(error, type)
        and issubclass(error, (layertap.LayertapError, Warning))
    }
    assert found - set(entries()) == set()


@pytest.mark.parametrize("name", [*RETURNED, "keract", "distributed.save"])
def test_others_have_an_entry(name):
    assert entries().count(f"layertap.{name}") == 1


@pytest.mark.parametrize("name", RETURNED)
def test_a_returned_class_exists(name):
    module, _, attribute = name.rpartition(".")
    file = PACKAGE / f"{module.replace('.', '/')}.py"
    assert f"\nclass {attribute}" in file.read_text("utf-8")


def test_the_site_asks_no_other_host():
    assert "font: false" in SITE
    assert re.findall(r"https?://", SITE) == []
