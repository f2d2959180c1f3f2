"""Rows of a value in a plane: their principal components, or UMAP."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.core.optional import require

Floats = NDArray[np.float64]
Method = Literal["pca", "umap"]

# UMAP: the neighbours of a row, the fewest rows, and the components of a row.
_NEIGHBOURS, _FEWEST, _WIDEST = 15, 10, 64


@dataclass(frozen=True)
class Projection:
    """Rows in a plane.

    Attributes:
        points: Their places, float64 of shape `(rows, 2)`.
        explained: The share of the variance that each of the two principal components
            has; None if the plane is of UMAP.
        neighbours: How many neighbours of each row UMAP keeps close.
    """

    points: Floats
    explained: tuple[float, float] | None
    neighbours: int = 0

    @property
    def words(self) -> str:
        """What the plane is, in words."""
        if self.explained is None:
            return f"UMAP, {self.neighbours} neighbours"
        first, second = self.explained
        return f"principal components: {first:.0%} and {second:.0%} of the variance"


def project(vectors: Floats, method: Method = "pca") -> Projection | None:
    """Projects rows onto a plane; None if they are few, alike, or not finite."""
    if len(vectors) < 3 or not np.isfinite(vectors).all():
        return None
    components, shares = _components(vectors)
    if not len(shares):
        return None
    if method == "umap":
        return _neighbourhood(components)
    first, second = shares[:2].tolist()
    return Projection(components[:, :2], (first, second))


def _components(vectors: Floats) -> tuple[Floats, Floats]:
    """Returns principal components of rows, and shares of the variance, if finite.

    Signs are those with which the largest entry of each component is positive.
    """
    # Of the Gram matrix, which is small where rows are wide.
    with np.errstate(all="ignore"):
        centred = vectors - vectors.mean(axis=0)
        gram = centred @ centred.T
    if not np.isfinite(gram).all():
        return vectors, np.zeros(0)
    squares, sides = np.linalg.eigh(gram)
    squares, sides = np.maximum(squares[::-1], 0), sides[:, ::-1]
    total = squares.sum()
    if not total > 0 or not math.isfinite(total):
        return vectors, np.zeros(0)
    points = sides * np.sqrt(squares)
    signs = np.sign(points[np.abs(points).argmax(axis=0), np.arange(len(points))])
    return points * np.where(signs == 0, 1, signs), squares / total


def _neighbourhood(components: Floats) -> Projection | None:
    """Projects rows by UMAP, the same each time, from their largest components.

    Of rows that have at most 64 numbers, these components keep all distances.
    """
    if len(components) < _FEWEST:
        return None
    neighbours = min(_NEIGHBOURS, len(components) - 1)
    # In 32 bits, which is what UMAP computes in, neither too small nor too large.
    rows = (components / np.abs(components).max())[:, :_WIDEST].astype(np.float32)
    # With a seed, UMAP works on one processor. Of rows that are mostly the same, the
    # initial places that it has otherwise can't be computed.
    reducer = library().UMAP(
        n_neighbors=neighbours, init="pca", random_state=0, n_jobs=1
    )
    points = np.asarray(reducer.fit_transform(rows), np.float64)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return Projection(points - centre, None, neighbours)


def library() -> Any:
    """Imports UMAP, or raises an error that names its extra."""
    return require("umap", "umap", "A projection by UMAP")
