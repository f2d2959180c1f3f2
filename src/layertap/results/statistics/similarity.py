"""How similar branches are: centred kernel alignment of their rows."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Memory for the comparison of branches, and the least and the most rows that it uses.
_COMPARED_BYTES, _LEAST_COMPARED, _MOST_COMPARED = 2**28, 4, 2048
# Columns that are widened to 64 bits at a time.
_COLUMNS = 4096


def comparable(rows: int, row_bytes: int, branches: int) -> NDArray[np.intp]:
    """Returns the rows to compare branches on, spread evenly.

    `row_bytes` are those of the largest branch.
    """
    fitting = _COMPARED_BYTES // max(row_bytes, 1)
    fitting_grams = math.isqrt(_COMPARED_BYTES // (8 * branches))
    most = max(min(_MOST_COMPARED, fitting, fitting_grams), _LEAST_COMPARED)
    count = min(rows, most)
    return np.linspace(0, rows - 1, count).astype(np.intp)


def alignment(branches: Iterable[Array]) -> tuple[tuple[float, ...], ...]:
    """Returns linear centred kernel alignment between branches of the same rows.

    It is `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` of the Gram matrices K and L of
    their rows (Kornblith et al. 2019, "Similarity of Neural Network Representations
    Revisited"), with the unbiased estimator of HSIC (Song et al. 2007, "Supervised
    Feature Selection via Dependence Estimation"; Nguyen et al. 2021). The
    biased one nears 1 for any branches with more numbers than rows. It is NaN for a
    branch that is constant over the rows, and for fewer than four rows.
    """
    grams = np.stack([centred_gram(branch) for branch in branches])
    # One by one: BLAS is slow for the product of two such long and narrow matrices.
    return tuple(tuple((grams @ gram).tolist()) for gram in grams)


def centred_gram(branch: Array) -> NDArray[np.float64]:
    """Returns the upper triangle of the U-centred Gram matrix of rows, of norm 1.

    The inner product of two such matrices is the sum of the three terms of the unbiased
    HSIC, times `n (n - 3)` (Szekely and Rizzo 2014, "Partial Distance Correlation").
    """
    rows = len(branch)
    if rows < _LEAST_COMPARED:
        return np.full(1, np.nan)
    flat = branch.reshape(rows, -1)
    gram = np.zeros((rows, rows))
    for start in range(0, flat.shape[1], _COLUMNS):
        part = flat[:, start : start + _COLUMNS].astype(np.float64)
        # Columns of one number are exactly zero then.
        part -= part[0]
        part -= part.mean(axis=0)
        gram += part @ part.T
    size = np.linalg.norm(gram)
    np.fill_diagonal(gram, 0)
    sums = gram.sum(axis=0) / (rows - 2)
    gram += sums.sum() / (rows - 1) - sums[:, None] - sums
    centred = gram[np.triu_indices(rows, 1)]
    norm = np.linalg.norm(centred)
    # Below that, only rounding is left.
    return centred / norm if norm > 1e-12 * size else np.full_like(centred, np.nan)
