"""Rows in a plane: their principal components, or UMAP with its extra."""

import sys

import numpy as np
import pytest
from click.testing import CliRunner

import layertap
from layertap.cli import main
from layertap.errors import BackendMissingError, OptionError
from layertap.pages.facts import page_facts
from layertap.pages.projection import project
from tests.pages.test_facts import made, vectors
from tests.pages.test_report import Page


def test_a_projection_is_that_of_the_singular_values():
    rows = np.random.default_rng(0).normal(size=(40, 7)) * [9, 5, 1, 1, 1, 1, 1]
    found = project(rows)
    left, sizes, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(found.explained, (sizes**2 / (sizes**2).sum())[:2])
    assert (found.points.max(axis=0) == np.abs(found.points).max(axis=0)).all()


@pytest.mark.parametrize(
    "rows",
    [np.ones((9, 4)), np.full((9, 4), np.nan), np.zeros((2, 4)), np.zeros((9, 0))],
    ids=["alike", "NaN", "two rows", "no numbers"],
)
def test_rows_that_have_no_plane(rows):
    assert project(rows) is None


@pytest.mark.parametrize("width", [3, 100])
@pytest.mark.slow
def test_umap_keeps_neighbours_and_is_the_same_again(width):
    random = np.random.default_rng(0)
    groups = np.arange(120) % 2
    rows = random.normal(size=(120, width)) + 20 * groups[:, None]
    found = project(rows, "umap")
    apart = np.linalg.norm(found.points[:, None] - found.points, axis=2)
    nearest = np.argsort(apart, axis=1)[:, 1:6]
    assert (groups[nearest] == groups[:, None]).all()
    np.testing.assert_array_equal(project(rows, "umap").points, found.points)


@pytest.mark.parametrize(
    ("rows", "neighbours"),
    [
        (np.eye(10)[[0, 1]].repeat(20, axis=0), 15),
        (np.arange(12.0)[:, None] * 1e140, 11),
        (np.arange(9.0)[:, None], None),
        (np.ones((20, 4)), None),
        (np.full((20, 4), np.nan), None),
    ],
    ids=["two rows, repeated", "huge", "nine rows", "alike", "NaN"],
)
@pytest.mark.slow
def test_rows_that_umap_accepts(rows, neighbours):
    found = project(rows, "umap")
    if neighbours is None:
        assert found is None
        return
    assert found.words == f"UMAP, {neighbours} neighbours"
    assert np.isfinite(found.points).all()
    np.testing.assert_allclose(found.points.min(axis=0), -found.points.max(axis=0))


@pytest.mark.slow
def test_a_page_with_umap(tmp_path):
    saved, _ = made(tmp_path, vectors((6,)))
    path = layertap.report(saved, tmp_path / "page.html", projection="umap")
    page = Page(path.read_text("utf-8"))
    assert "Rows (UMAP, 15 neighbours)" in page.text
    assert "principal components" not in page.text
    (value,) = page_facts(saved, "umap").values
    assert len(value.projection.points) == page.tags.count("circle")


def test_without_umap_its_extra_is_named(tmp_path, monkeypatch):
    saved, _ = made(tmp_path)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(BackendMissingError, match=r'pip install "layertap\[umap\]"'):
        layertap.report(saved, tmp_path / "page.html", projection="umap")
    with pytest.raises(OptionError, match=r'Expected "pca" or "umap". Received \'tsn'):
        layertap.report(saved, tmp_path / "page.html", projection="tsne")
    assert not (tmp_path / "page.html").exists()
    command = ["report", saved.path, "-o", str(tmp_path / "page.html")]
    done = CliRunner().invoke(main, [*command, "--projection", "umap"])
    assert "layertap[umap]" in done.output
    assert CliRunner().invoke(main, [*command, "--projection", "pca"]).exit_code == 0
