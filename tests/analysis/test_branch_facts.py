"""Facts on branches equal their formulas, written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.analysis.branch_facts import (
    alignment,
    comparable,
    mean_square,
    shares,
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


def by_features(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA in terms of features: |Y'X|^2 / (|X'X| |Y'Y|)."""
    x, y = (a.reshape(len(a), -1) - a.reshape(len(a), -1).mean(0) for a in (one, other))
    return float(
        np.linalg.norm(y.T @ x) ** 2
        / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    )


def test_alignment_is_linear_cka():
    random = np.random.default_rng(0)
    one = random.normal(size=(50, 2, 3))
    turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
    turned = 3 * one.reshape(50, 6) @ turn + 5
    other = random.normal(size=(50, 4)) + one[:, 0, :1]
    branches = [one, turned, other]
    aligned = alignment(branches)
    for row, first in zip(aligned, branches, strict=True):
        for value, second in zip(row, branches, strict=True):
            assert value == pytest.approx(by_features(first, second))
    assert aligned[0][1] == pytest.approx(1)
    assert 0 < aligned[0][2] < 0.9


def test_a_constant_branch_is_similar_to_no_other():
    aligned = alignment([np.ones((4, 2)), np.eye(4)])
    assert math.isnan(aligned[0][1])
    assert aligned[1][1] == pytest.approx(1)


def test_rows_to_compare_are_spread_and_bounded():
    assert comparable(5, 8, 2).tolist() == [0, 1, 2, 3, 4]
    many = comparable(10**6, 8, 2)
    assert len(many) == len(set(many)) == 2048
    assert (many[0], many[-1]) == (0, 10**6 - 1)
    assert len(comparable(10**6, 2**20, 2)) * 2**20 <= 2**28


def test_shares():
    assert shares([1, 3]) == [0.25, 0.75]
    assert all(map(math.isnan, shares([0, 0])))
