"""Facts on branches: their mean and norm, dead units, how similar they are."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.results.statistics.gather import compute_statistics
from layertap.results.statistics.moments import Statistics

Array = NDArray[Any]

# Memory for the comparison of branches, and the most rows that it uses.
_COMPARED_BYTES, _MOST_COMPARED = 2**28, 2048


def unit_statistics(pieces: Iterable[Array]) -> Statistics:
    """Computes the statistics of each number of a branch, from pieces of its rows."""
    parts = (compute_statistics(piece.reshape(len(piece), -1), 1) for piece in pieces)
    return functools.reduce(Statistics.merge, parts)


def mean_square(statistics: Statistics) -> float:
    """Returns the mean squared norm of a row."""
    with np.errstate(invalid="ignore"):
        squares = statistics.variance + statistics.mean**2
    return float(np.nansum(squares * statistics.finite) / statistics.count)


def comparable(rows: int, row_bytes: int, branches: int) -> NDArray[np.intp]:
    """Returns the rows to compare branches on, spread evenly.

    `row_bytes` are those of the largest branch.
    """
    fitting = max(2, _COMPARED_BYTES // max(2 * row_bytes, 1))
    fitting_grams = max(2, math.isqrt(_COMPARED_BYTES // (8 * branches)))
    count = min(rows, _MOST_COMPARED, fitting, fitting_grams)
    return np.linspace(0, rows - 1, count).astype(np.intp)


def alignment(branches: Iterable[Array]) -> tuple[tuple[float, ...], ...]:
    """Returns linear centred kernel alignment between branches of the same rows.

    It is `<K, L> / (|K| |L|)` of the Gram matrices K and L of their rows, with each
    column centred (Kornblith et al. 2019, "Similarity of Neural Network
    Representations Revisited", equation 5 of the linear kernel). It is NaN for a
    branch that is constant over the rows.
    """
    grams = []
    for branch in branches:
        flat = branch.reshape(len(branch), -1).astype(np.float64)
        centred = flat - flat.mean(axis=0)
        gram = centred @ centred.T
        norm = np.linalg.norm(gram)
        grams.append(gram / norm if norm else np.full_like(gram, np.nan))
    return tuple(tuple(float(np.vdot(a, b)) for b in grams) for a in grams)


def shares(parts: Sequence[float]) -> list[float]:
    """Returns the share that each part has of the sum; NaN where the sum is 0."""
    total = sum(parts)
    return [part / total if total else math.nan for part in parts]
