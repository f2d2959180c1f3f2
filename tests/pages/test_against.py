"""A page compares the values that two stores have."""

import numpy as np
import pytest

import layertap
from layertap.pages.against import counterparts
from layertap.pages.drawing import bars, outline
from layertap.pages.facts import page_facts
from layertap.results.statistics.histogram import Histogram, aligned
from layertap.results.statistics.similarity import alignment
from tests.pages.test_facts import made, vectors
from tests.pages.test_report import Page
from tests.support.export_stores import ROWS, store


@pytest.fixture
def pair(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, ours = made(tmp_path / "one")
    other, theirs = made(tmp_path / "other", vectors((6,)), rows=40, seed=1)
    return one, ours, other, theirs


def test_values_that_both_have_are_compared(pair):
    one, ours, other, theirs = pair
    found = counterparts(page_facts(one), other)
    assert [*found] == ["fusion/in/0"]
    part = found["fusion/in/0"]
    rows = [ours["fusion/in/0"][:40], theirs["fusion/in/0"]]
    assert part.similarity == pytest.approx(alignment(rows)[0][1], abs=1e-9)
    assert part.uncertainty > 0
    assert part.facts.statistics.total.mean == pytest.approx(
        theirs["fusion/in/0"].astype("float64").mean(), rel=1e-6
    )


def test_other_inputs_have_no_similarity(pair, tmp_path):
    one, *_ = pair
    other, _ = made(tmp_path, digest=5)
    found = counterparts(page_facts(one), other)
    assert np.isnan(found["fusion/in/0"].similarity)
    path = layertap.report(one, tmp_path / "page.html", against=other)
    assert "other inputs" in Page(path.read_text("utf-8")).text


def test_values_that_are_constant_have_the_same_inputs(tmp_path):
    plan = vectors((2,))
    zeros = {"fusion/in/0": np.zeros((40, 2), "float32")}
    saved, _ = store(tmp_path / "zeros.zarr", plan, rows=40, values=zeros)
    path = layertap.report(saved, tmp_path / "page.html", against=saved)
    text = Page(path.read_text("utf-8")).text
    assert "similarity (CKA) ?" in text
    assert "other inputs" not in text


def test_the_other_store_may_be_wide_incomplete_or_have_other_values(pair, tmp_path):
    one, *_ = pair
    other, _ = made(tmp_path, vectors((50_000,)), rows=30, finish=False)
    path = layertap.report(one, tmp_path / "page.html", against=other)
    text = Page(path.read_text("utf-8")).text
    assert "none: the store is not complete" in text
    assert "The other store lacks fusion/in/1." in text
    with_rows = counterparts(page_facts(one), other)["fusion/in/0"]
    assert len(with_rows.facts.norms) == 30


def test_histograms_have_the_same_bins():
    random = np.random.default_rng(0)
    one, other = random.normal(size=300), 40 + 9 * random.normal(size=50)
    ours, theirs = aligned([Histogram.of(one), Histogram.of(other)])
    np.testing.assert_array_equal(ours.edges, theirs.edges)
    for part, numbers in ((ours, one), (theirs, other)):
        expected, _ = np.histogram(numbers, part.edges)
        assert part.counts.tolist() == expected.tolist()
    heights = [bar.height for bar in bars(theirs, 1)]
    assert outline(theirs, 1).count("V") == len(heights) + 1
    assert max(heights) == 1


def test_the_page_has_both(pair, tmp_path):
    one, _, other, theirs = pair
    path = layertap.report(one.path, tmp_path / "page.html", against=other.path)
    page = Page(path.read_text("utf-8"))
    assert "Compared with" in page.text
    assert f"{ROWS}, complete" in page.text
    assert "40, complete" in page.text
    assert f"{theirs['fusion/in/0'].astype('float64').mean():.4g}" in page.text
    assert page.text.count("In the other store") == 1
