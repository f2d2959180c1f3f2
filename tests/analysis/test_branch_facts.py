"""Facts on branches equal their formulas, written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.analysis.branch_facts import (
    mean_square,
    unit_statistics,
)


def pieces(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_facts_do_not_depend_on_the_pieces(rows, size, seed):
    array = np.random.default_rng(seed).normal(size=(rows, 3, 2)).astype("float32")
    array[:, 1, 1] = 4
    known = unit_statistics(pieces(array, size))
    wide = array.astype("float64").reshape(rows, 6)
    np.testing.assert_allclose(known.mean, wide.mean(axis=0), rtol=1e-6, atol=1e-7)
    assert mean_square(known) == pytest.approx((wide**2).sum(axis=1).mean())
    assert known.dead.sum() == (6 if rows == 1 else 1)
    assert (known.nan.sum(), known.inf.sum()) == (0, 0)


def test_nan_and_infinities_are_counted():
    array = np.array([[1, np.nan], [np.inf, 2], [-np.inf, np.nan]], "float16")
    known = unit_statistics(pieces(array, 2))
    assert (known.nan.sum(), known.inf.sum()) == (2, 2)
    # Of the finite numbers.
    assert mean_square(known) == pytest.approx((1 + 4) / 3)
