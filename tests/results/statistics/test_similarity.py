"""Similarity equals its formula, written out."""

import itertools
import math

import numpy as np
import pytest

from layertap.results.statistics.similarity import alignment, comparable
from tests.support.campaign import share


def by_pairs_of_rows(one: np.ndarray, other: np.ndarray) -> float:
    """HSIC as a U-statistic: the mean over all four different rows i, j, q, r.

    It is the mean of K_ij (L_ij + L_qr - 2 L_iq): no row is compared with itself.
    """
    flat = (a.reshape(len(a), -1).astype("float64") for a in (one, other))
    k, m = (a @ a.T for a in flat)
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return sum(terms) / len(terms)


def by_definition(one: np.ndarray, other: np.ndarray) -> float:
    both = by_pairs_of_rows(one, other)
    squared = by_pairs_of_rows(one, one) * by_pairs_of_rows(other, other)
    return float(both / np.sqrt(squared))


@pytest.mark.parametrize("rows", [4, 5, 8])
def test_alignment_of_few_rows_is_the_mean_over_their_quadruples(rows):
    random = np.random.default_rng(rows)
    one = random.normal(size=(rows, 2, 3)) + 7
    turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
    turned = 3 * one.reshape(rows, 6) @ turn + 5
    other = random.normal(size=(rows, 4)) + one[:, 0, :1]
    branches = [one, turned, other.astype("float32")]
    aligned = alignment(branches)
    for row, first in zip(aligned, branches, strict=True):
        for value, second in zip(row, branches, strict=True):
            assert value == pytest.approx(by_definition(first, second), abs=1e-6)
    assert aligned[0][1] == pytest.approx(1)


@pytest.mark.parametrize("rows", share(2, [256, 2048]))
def test_wide_branches_are_alike_only_if_they_share_something(rows):
    random, width = np.random.default_rng(0), 5000
    latent = random.normal(size=(rows, 8)).astype("float32")

    def branch(latents: float) -> np.ndarray:
        weights = random.normal(size=(8, width)).astype("float32")
        noise = random.normal(size=(rows, width)).astype("float32")
        return latents * latent @ weights + noise

    aligned = alignment([branch(0), branch(0), branch(1), branch(1)])
    assert abs(aligned[0][1]) < 0.02
    assert abs(aligned[0][2]) < 0.02
    assert aligned[2][3] > 0.9


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_than_four_rows_tell_nothing_about_similarity(rows):
    branch = np.random.default_rng(0).normal(size=(rows, 5))
    assert np.isnan(alignment([branch, 2 * branch])).all()


def test_a_constant_branch_is_similar_to_no_other():
    # The mean of these is not exactly 0.1.
    constant = np.full((7, 2), 0.1, "float32")
    aligned = alignment([constant, np.random.default_rng(0).normal(size=(7, 3))])
    assert math.isnan(aligned[0][1])
    assert aligned[1][1] == pytest.approx(1)


def test_rows_to_compare_are_spread_and_bounded():
    assert comparable(5, 8, 2).tolist() == [0, 1, 2, 3, 4]
    many = comparable(10**6, 8, 2)
    assert len(many) == len(set(many)) == 2048
    assert (many[0], many[-1]) == (0, 10**6 - 1)
    assert len(comparable(10**6, 2**20, 2)) * 2**20 == 2**28
    assert len(comparable(10**6, 2**40, 2)) == 4
    # Half of each matrix, twice in memory.
    assert len(comparable(10**6, 8, 500)) ** 2 * 500 * 8 <= 2**28
