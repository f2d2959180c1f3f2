"""The facts of a page equal their formulas, for stores of any size."""

import numpy as np
import pytest

from layertap.core.plan import Branch, Join, Output, Plan
from layertap.pages import sample
from layertap.pages.facts import page_facts, similarities
from layertap.pages.sample import read, sample_rows
from layertap.results.statistics.similarity import alignment
from tests.support.export_stores import IDS, ROWS, plan_of, store


def vectors(widths=(6, 3), dtype="float32"):
    """A plan of one join of vectors."""
    branches = tuple(
        Branch(f"fusion/in/{n}", f"branch{n}", (None, width), dtype)
        for n, width in enumerate(widths)
    )
    shape = (None, sum(widths))
    return Plan("two", (Join("fusion", "concatenate", 1, shape, dtype, branches),))


def arrays(plan, rows=ROWS, seed=0):
    random = np.random.default_rng(seed)
    return {
        value.address: random.normal(size=(rows, *value.shape[1:])).astype(value.dtype)
        for value in plan.stored
    }


def made(tmp_path, plan=None, rows=ROWS, seed=0, **along):
    plan = plan or vectors()
    known = arrays(plan, rows, seed)
    stored = {**known, "digests": np.zeros(rows, "uint64")}
    saved, _ = store(tmp_path / "values.zarr", plan, rows=rows, values=known, **along)
    return saved, stored


def test_shares_norms_and_rows_are_those_of_numpy(tmp_path):
    saved, stored = made(tmp_path, labels=np.arange(ROWS) % 3, ids=IDS)
    page = page_facts(saved)
    assert page.rows.tolist() == [*range(ROWS)]
    one, other = stored["fusion/in/0"], stored["fusion/in/1"]
    (join,) = page.joins
    assert join.numbers == [6 / 9, 3 / 9]
    squares = [(a.astype("float64") ** 2).sum() for a in (one, other)]
    np.testing.assert_allclose(join.norm, np.array(squares) / sum(squares))
    first = page.values[0]
    norms = np.linalg.norm(one.astype("float64"), axis=1)
    np.testing.assert_allclose(first.norms, norms)
    assert first.most_active == np.argsort(-norms)[:5].tolist()
    assert first.least_active == np.argsort(norms)[:5].tolist()
    assert first.histogram.counts.sum() == one.size
    assert page.row_names == IDS
    assert page.labels == [str(row % 3) for row in range(ROWS)]


def test_similarity_has_the_error_of_a_jackknife():
    random = np.random.default_rng(1)
    one = random.normal(size=(64, 5))
    other = one @ random.normal(size=(5, 4)) + random.normal(size=(64, 4))
    found, error = similarities([one, other])
    np.testing.assert_allclose(found, alignment([one, other]))
    groups = [
        alignment([part[np.arange(64) % 8 != g] for part in (one, other)])[0][1]
        for g in range(8)
    ]
    expected = np.sqrt(7 / 8 * ((groups - np.mean(groups)) ** 2).sum())
    np.testing.assert_allclose(error[0, 1], expected)
    few, unknown = similarities([one[:9], other[:9]])
    assert np.isfinite(few[0, 1])
    assert np.isnan(unknown).all()


def test_rows_are_sampled_in_runs_within_bounds(tmp_path, monkeypatch):
    saved, stored = made(tmp_path, rows=500, block_rows=64)
    monkeypatch.setattr(sample, "_MOST_ROWS", 100)
    rows = sample_rows(saved, [*saved])
    assert len(rows) <= 100
    assert (rows[0], rows[-1]) == (0, 499)
    assert len(np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)) == 16
    np.testing.assert_array_equal(
        read(saved, "fusion/in/0", rows), stored["fusion/in/0"][rows]
    )
    monkeypatch.setattr(sample, "_MOST_BYTES", 20 * 36)
    assert len(sample_rows(saved, [*saved])) == 20


def test_stores_of_all_dtypes_and_forms(tmp_path):
    saved, _ = store(tmp_path / "values.zarr", plan_of())
    page = page_facts(saved)
    assert [value.address for value in page.values] == [*saved]
    complexes = Plan("zoo", (), (Output("wave/out", "wave", (None, 3), "complex64"),))
    waves = {"wave/out": np.exp(1j * np.arange(30)).reshape(10, 3).astype("complex64")}
    saved, _ = store(tmp_path / "waves.zarr", complexes, rows=10, values=waves)
    (value,) = page_facts(saved).values
    assert value.statistics is None
    assert value.histogram.counts.sum() == 60


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_stores_of_few_rows_that_are_not_complete(tmp_path, rows):
    saved, _ = made(tmp_path, rows=rows, finish=False, labels=np.zeros(rows, int))
    page = page_facts(saved)
    assert len(page.rows) == rows
    assert page.values[0].statistics is None
