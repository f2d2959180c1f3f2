"""What branches are like, beside the formulas written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.analysis.branch_facts import Facts, alignment, comparable, shares


def pieces(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
def test_facts_do_not_depend_on_the_pieces(rows, size, seed):
    array = np.random.default_rng(seed).normal(size=(rows, 3, 2)).astype("float32")
    array[:, 1, 1] = 4
    facts = Facts(pieces(array, size))
    wide = array.astype("float64")
    np.testing.assert_allclose(facts.mean, wide.mean(axis=0), rtol=1e-6, atol=1e-7)
    assert facts.mean.dtype == array.dtype
    assert facts.square == pytest.approx((wide**2).sum(axis=(1, 2)).mean())
    assert facts.dead == (6 if rows == 1 else 1)
    assert (facts.nan, facts.inf) == (0, 0)


def test_numbers_that_are_none_are_counted():
    array = np.array([[1, np.nan], [np.inf, 2], [-np.inf, np.nan]], "float16")
    with np.errstate(invalid="ignore"):
        facts = Facts(pieces(array, 2))
    assert (facts.nan, facts.inf) == (2, 2)


def by_features(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA as it is told of features: |Y'X|^2 / (|X'X| |Y'Y|)."""
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
    found = alignment(branches)
    for row, first in zip(found, branches, strict=True):
        for value, second in zip(row, branches, strict=True):
            assert value == pytest.approx(by_features(first, second))
    assert found[0][1] == pytest.approx(1)
    assert 0 < found[0][2] < 0.9


def test_a_constant_branch_is_like_none():
    found = alignment([np.ones((4, 2)), np.eye(4)])
    assert math.isnan(found[0][1])
    assert found[1][1] == pytest.approx(1)


def test_rows_to_compare_are_spread_and_bounded():
    assert comparable(5, 8, 2).tolist() == [0, 1, 2, 3, 4]
    many = comparable(10**6, 8, 2)
    assert len(many) == len(set(many)) == 2048
    assert (many[0], many[-1]) == (0, 10**6 - 1)
    assert len(comparable(10**6, 2**20, 2)) * 2**20 <= 2**28


def test_shares():
    assert shares([1, 3]) == [0.25, 0.75]
    assert all(map(math.isnan, shares([0, 0])))
