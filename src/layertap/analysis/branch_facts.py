"""What branches are like: their mean and norm, dead units, how much they are alike."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Bytes that are held to compare branches, and the most rows that they are compared on.
_COMPARED_BYTES, _MOST_COMPARED = 2**28, 2048


class Facts:
    """What a branch is like over all rows.

    Args:
        pieces: Its rows, some at a time; at least one row.

    Attributes:
        mean: Its mean over the rows, in its own dtype.
        square: The mean squared norm of a row.
        dead: How many of its numbers are the same in all rows.
        nan: How many NaN it has.
        inf: How many infinities it has.
    """

    def __init__(self, pieces: Iterable[Array]) -> None:
        count, square = 0, 0.0
        total: Any = 0.0
        low: Any = np.inf
        high: Any = -np.inf
        self.nan = self.inf = 0
        for piece in pieces:
            wide = piece.astype(np.float64)
            self.nan += int(np.isnan(wide).sum())
            self.inf += int(np.isinf(wide).sum())
            count += len(wide)
            total = total + wide.sum(axis=0)
            square += float(np.square(wide).sum())
            low = np.minimum(low, wide.min(axis=0))
            high = np.maximum(high, wide.max(axis=0))
            dtype = piece.dtype
        self.mean: Array = np.asarray(total / count).astype(dtype)
        self.square = square / count
        self.dead = int(np.sum(low == high))


def comparable(rows: int, row_bytes: int, branches: int) -> NDArray[np.intp]:
    """Returns which rows branches are compared on, spread over all of them.

    Args:
        rows: How many there are.
        row_bytes: The bytes of a row of the largest branch.
        branches: How many are compared with each other.
    """
    count = min(
        rows,
        _MOST_COMPARED,
        max(2, _COMPARED_BYTES // max(2 * row_bytes, 1)),
        max(2, math.isqrt(_COMPARED_BYTES // (8 * branches))),
    )
    return np.linspace(0, rows - 1, count).astype(np.intp)


def alignment(branches: Iterable[Array]) -> tuple[tuple[float, ...], ...]:
    """Returns linear centred kernel alignment between branches.

    It is `<K, L> / (|K| |L|)` of the Gram matrices K and L of their rows, with each
    column centred (Kornblith et al. 2019, "Similarity of Neural Network
    Representations Revisited", equation 5 of the linear kernel).

    Args:
        branches: Of each the same rows, of any shape.

    Returns:
        For each branch its alignment with each, NaN where one is the same in all rows.
    """
    grams = []
    for branch in branches:
        flat = branch.reshape(len(branch), -1).astype(np.float64)
        gram = _gram(flat - flat.mean(axis=0))
        norm = np.linalg.norm(gram)
        grams.append(gram / norm if norm else np.full_like(gram, np.nan))
    return tuple(tuple(float(np.vdot(one, other)) for other in grams) for one in grams)


def _gram(centred: Array) -> Array:
    found: Array = centred @ centred.T
    return found


def shares(parts: Sequence[float]) -> list[float]:
    """Returns what share of their sum each part is; NaN where the sum is 0."""
    whole = sum(parts)
    return [part / whole if whole else math.nan for part in parts]
