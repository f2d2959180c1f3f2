"""Facts on branches: their mean and norm, dead units, the size of their parts."""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.results.statistics.gather import compute_statistics
from layertap.results.statistics.moments import Statistics

Array = NDArray[Any]


def unit_statistics(pieces: Iterable[Array]) -> Statistics:
    """Computes the statistics of each number of a branch, from pieces of its rows."""
    parts = (compute_statistics(piece.reshape(len(piece), -1), 1) for piece in pieces)
    return functools.reduce(Statistics.merge, parts)


def mean_square(statistics: Statistics) -> float:
    """Returns the mean squared norm of a row."""
    with np.errstate(invalid="ignore"):
        squares = statistics.variance + statistics.mean**2
    return float(np.nansum(squares * statistics.finite) / statistics.count)


def size_of_parts(attributions: Array) -> float:
    """Returns the sum over the rows of the absolute sum of each row."""
    rows = attributions.reshape(len(attributions), -1).astype(np.float64)
    return float(np.abs(rows.sum(axis=1)).sum())
