"""A page is one small file that shows what a store has, as text, and loads nothing."""

import dataclasses
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import layertap
from layertap.core.plan import Branch, Join, Output, Plan, Refused
from layertap.errors import OptionError, StoreError
from layertap.pages.facts import page_facts
from tests.pages.test_facts import made, vectors
from tests.support.export_stores import CLASSES, IDS, ROWS, plan_of, store

EMPTY = {"meta", "img", "input"}


class Page(HTMLParser):
    """Reads a page: its tags, which have to be closed, its texts and its styles."""

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(content)
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def page_of(saved, folder):
    path = layertap.report(saved, folder / "page.html", overwrite=True)
    content = path.read_text("utf-8")
    assert path.stat().st_size < 2_000_000
    page = Page(content)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", content)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    links = {name for name, _ in page.attributes} & {"href", "xlink:href"}
    assert not links
    sources = [value for name, value in page.attributes if name == "src"]
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    return page


def test_a_page_says_what_the_store_has(tmp_path):
    saved, stored = made(tmp_path, labels=np.arange(ROWS) % 3, ids=IDS)
    page = page_of(saved, tmp_path)
    facts = page_facts(saved)
    for words in ("two", f"{ROWS} , complete".replace(" ,", ","), "fusion/in/1"):
        assert words in page.text
    (join,) = facts.joins
    for place, share in enumerate(join.norm):
        assert f"{join.numbers[place]:.0%} of the numbers, {share:.0%} of" in page.text
    assert f"{join.similarity[0, 1]:.2f}" in page.text
    for name, array in stored.items():
        if name != "digests":
            assert f"{array.astype('float64').mean():.4g}" in page.text
    assert IDS[facts.values[0].most_active[0]] in page.text
    titles = sum(f", label {label}" in page.text for label in range(3))
    assert titles == 3
    assert page.tags.count("circle") == 2 * ROWS + 3


def test_maps_are_pictures(tmp_path):
    saved, _ = store(tmp_path / "values.zarr", plan_of(), class_names=CLASSES)
    page = page_of(saved, tmp_path)
    # Two branches of four and five maps, and their joined value.
    assert page.tags.count("img") > 8


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "</title><h1>x",
    "\x1b[31mred",
]


def test_names_are_shown_as_text(tmp_path):
    branches = tuple(
        Branch(f"fusion/in/{n}", name, (None, 3), "float32")
        for n, name in enumerate(HOSTILE)
    )
    join = Join("fusion", "concatenate", 1, (None, 15), "float32", branches)
    saved, _ = made(
        tmp_path,
        Plan(HOSTILE[0], (join,)),
        ids=[f"{HOSTILE[row % 5]}{row}".replace("\x1b", "") for row in range(ROWS)],
        labels=np.arange(ROWS) % 4,
        class_names=HOSTILE[:4],
    )
    page = page_of(saved, tmp_path)
    assert "img" not in page.tags
    assert page.tags.count("h1") == 1
    for name in HOSTILE[:4]:
        assert name in page.text
    assert "49" not in re.findall(r"made by (\S+),", page.text)
    assert "\x1b" not in page.text


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_store_that_is_not_complete(tmp_path, rows):
    saved, _ = made(tmp_path, rows=rows, finish=False)
    page = page_of(saved, tmp_path)
    assert f"{rows}, not complete" in page.text
    assert "none: the store is not complete" in page.text


def test_values_without_finite_numbers(tmp_path):
    plan = vectors((2, 2))
    nan = {value.address: np.full((9, 2), np.nan, "float32") for value in plan.stored}
    saved, _ = store(tmp_path / "values.zarr", plan, rows=9, values=nan)
    page = page_of(saved, tmp_path)
    assert "No number is finite." in page.text


@pytest.mark.slow
def test_many_branches_and_rows_fit_on_a_page(tmp_path):
    saved, _ = made(tmp_path, vectors([8] * 300), rows=400, labels=np.arange(400) % 12)
    page = page_of(saved, tmp_path)
    assert "288 more branches are not drawn." in page.text
    assert "fusion/in/299" in page.text
    assert "3 others" in page.text


def test_a_file_is_replaced_only_if_asked_for(tmp_path):
    saved, _ = made(tmp_path)
    target = tmp_path / "page.html"
    target.write_text("mine")
    with pytest.raises(OptionError, match=r"page.html exists. Pass overwrite=True"):
        layertap.report(saved, target)
    assert target.read_text() == "mine"
    layertap.report(saved.path, str(target), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "values.zarr"]


def test_a_page_does_not_replace_a_part_of_a_store(tmp_path):
    saved, _ = made(tmp_path)
    with pytest.raises(OptionError, match="is inside the store"):
        layertap.report(saved, tmp_path / "values.zarr" / "zarr.json", overwrite=True)
    assert layertap.open(saved.path).rows == ROWS


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (b"page.html", "Expected a file"),
        ("a\0b.html", "Expected a file"),
        ("\ud800.html", "Expected a file"),
        ("", "Expected a file"),
        (".", "is a folder"),
    ],
    ids=repr,
)
def test_paths_that_are_refused(tmp_path, path, message):
    saved, _ = made(tmp_path)
    with pytest.raises(OptionError, match=message):
        layertap.report(saved, path)


def test_names_that_are_too_long_for_the_disk(tmp_path):
    saved, _ = made(tmp_path)
    with pytest.raises(StoreError, match="could not be written: File name too long"):
        layertap.report(saved, tmp_path / ("x" * 300))


def test_a_device_is_not_replaced(tmp_path):
    saved, _ = made(tmp_path)
    os.mkfifo(tmp_path / "page.html")
    with pytest.raises(OptionError, match="a device"):
        layertap.report(saved, tmp_path / "page.html", overwrite=True)


def test_the_name_of_a_store_in_the_folder_of_now(tmp_path, monkeypatch):
    made(tmp_path)
    monkeypatch.chdir(tmp_path / "values.zarr")
    assert "two: values.zarr" in page_of(layertap.open("."), tmp_path).text


@pytest.mark.parametrize("rows", [0, 9, 40])
def test_what_is_not_known_is_not_a_number(tmp_path, rows):
    saved, _ = made(tmp_path, rows=rows)
    content = layertap.report(saved, tmp_path / "page.html").read_text("utf-8")
    assert not re.search("nan%|± nan|Most active: [.]", content)
    assert ("? of the norm" in content) == (rows == 0)
    assert bool(re.search(r"\d ± \d", content)) == (rows == 40)


def test_missing_values_and_reasons_are_shortened(tmp_path):
    refused = tuple(Refused(f"{n}{'&' * 5000}", "'" * 9000) for n in range(300))
    saved, _ = made(tmp_path, dataclasses.replace(vectors(), refused=refused))
    assert "and 100 more" in page_of(saved, tmp_path).text


def test_labels_that_have_no_name_are_numbers(tmp_path):
    saved, _ = made(
        tmp_path, labels=np.arange(ROWS) % 5 - 1, class_names=["--1", "b" * 500]
    )
    page = page_of(saved, tmp_path)
    assert sorted(set(page_facts(saved).labels))[:2] == ["--1", "-1"]
    assert "b" * 61 not in page.text
    assert "b" * 29 in page.text


@pytest.mark.parametrize("numbers", [[1.7e308] * 3, [1.7e308, -1.7e308, 0], [5, 5, 5]])
def test_numbers_of_any_size_are_drawn_or_left_out(tmp_path, numbers):
    plan = Plan("big", (), (Output("a/out", "a", (None, 3), "float64"),))
    values = {"a/out": np.array([numbers] * 9, "float64")}
    saved, _ = store(tmp_path / "values.zarr", plan, rows=9, values=values)
    page = page_of(saved, tmp_path)
    paths = [value for name, value in page.attributes if name == "d"]
    assert not any("nan" in path or "inf" in path for path in paths)


def test_a_histogram_of_a_sample_says_so(tmp_path):
    saved, _ = made(tmp_path, rows=3000, finish=False)
    page = page_of(saved, tmp_path)
    assert re.search(r" to \S+: about [\d,]+ numbers", page.text)
    counts = page_facts(saved).values[0].histogram.counts
    assert counts.sum() == pytest.approx(3000 * 6, rel=0.01)


def test_maps_have_the_channels_of_their_operation(tmp_path):
    plan = Plan(
        "maps",
        (),
        (Output("a/out", "a", (None, 3, 8, 12), "float32"),),
        channels_first=("a/out",),
    )
    values = {"a/out": np.random.default_rng(0).normal(size=(4, 3, 8, 12))}
    values = {name: array.astype("float32") for name, array in values.items()}
    saved, _ = store(tmp_path / "values.zarr", plan, rows=4, values=values)
    page = page_of(saved, tmp_path)
    alternatives = [value for name, value in page.attributes if name == "alt"]
    assert len(alternatives) == 3
    assert all("of 3, row" in words for words in alternatives)


def test_a_path_that_can_not_be_written(tmp_path):
    saved, _ = made(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written: File exists"):
        layertap.report(saved, tmp_path / "file" / "page.html")
