"""The facts that the page of a store shows, computed from the store."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core import tables, text
from layertap.core.address import IDS
from layertap.core.plan import Join
from layertap.errors import AddressError
from layertap.pages.projection import Method, Projection, project
from layertap.pages.sample import Rows, read, sample_rows
from layertap.results.saved import Saved
from layertap.results.statistics.histogram import Histogram
from layertap.results.statistics.moments import Statistics, shares
from layertap.results.statistics.similarity import centred_gram, comparable

Floats = NDArray[np.float64]

# The rows that are named as most and least active.
_NAMED = 5
# The branches of a join that are drawn, and compared with each other.
MOST_BRANCHES = 12
# Groups of rows that are left out in turn, for the uncertainty of a similarity.
_GROUPS = 8
# The most characters of an id or a label.
_LONGEST = 60
# The points of all projections together, and of one.
_ALL_POINTS, _MOST_POINTS = 6000, 500


@dataclass(frozen=True)
class ValueFacts:
    """What the page shows of one value.

    Attributes:
        address: Its address.
        made_by: The path of the operation that made it.
        shape: The shape of a row.
        dtype: The dtype in the store.
        statistics: Its statistics, if the store has them.
        histogram: The distribution of its numbers: of the statistics, or of the sample.
        norms: The norm of each sampled row.
        most_active: Sampled rows with the largest norms, the largest first.
        least_active: Those with the smallest norms.
        projection: Its rows in a plane; None if they are few, alike, or not
            finite.
    """

    address: str
    made_by: str
    shape: tuple[int, ...]
    dtype: str
    statistics: Statistics | None
    histogram: Histogram | None
    norms: Floats
    most_active: list[int]
    least_active: list[int]
    projection: Projection | None


@dataclass(frozen=True)
class JoinFacts:
    """What the page shows of one join.

    Attributes:
        join: The join.
        names: The addresses of its branches that the store has.
        numbers: The share of each branch in the numbers of a row.
        norm: Its share in the mean squared norm of the branches.
        attribution: Its share in the size of the attributions, if they were saved.
        importance: Its share in the rises of the loss when branches are permuted, one
            by one, if that was measured.
        similarity: Unbiased linear CKA of each pair of the first twelve branches.
        uncertainty: Its standard error, by leaving out an eighth of the rows in turn.
    """

    join: Join
    names: list[str]
    numbers: list[float]
    norm: list[float]
    attribution: list[float] | None
    importance: list[float] | None
    similarity: Floats
    uncertainty: Floats


@dataclass(frozen=True)
class PageFacts:
    """All that the page of a store shows."""

    saved: Saved
    rows: Rows
    row_names: list[str]
    labels: list[str] | None
    values: list[ValueFacts]
    joins: list[JoinFacts]


def page_facts(
    saved: Saved, method: Method = "pca", rises: Mapping[str, float] | None = None
) -> PageFacts:
    """Computes the facts of a store from its statistics and a sample of its rows.

    `rises` has, by address, how much the loss rises when a branch is permuted.
    """
    names = list(saved.plan.addresses)
    rows = sample_rows(saved, names)
    vectors = {name: read(saved, name, rows) for name in names}
    most = max(min(_MOST_POINTS, _ALL_POINTS // max(len(names), 1)), 20)
    values = [
        value_facts(saved, name, vectors[name], rows, most, method) for name in names
    ]
    joins = [
        _join_facts(saved, join, vectors, rows, rises or {})
        for join in saved.plan.joins
        if any(branch.address in vectors for branch in join.branches)
    ]
    return PageFacts(
        *(saved, rows, _row_names(saved, rows), _label_names(saved, rows)),
        *(values, joins),
    )


def value_facts(
    saved: Saved,
    name: str,
    vectors: Floats,
    rows: Rows,
    most: int,
    method: Method = "pca",
) -> ValueFacts:
    """Returns the facts of a value, with at most so many rows in a plane."""
    planned = (*saved.plan.values, *saved.plan.derived)
    made_by = next(value.made_by for value in planned if value.address == name)
    try:
        statistics = saved.statistics[name]
    except AddressError:
        statistics = None
    histogram = statistics.histogram if statistics else None
    norms = np.sqrt(_squares(vectors).sum(axis=1))
    order = np.argsort(-norms, kind="stable")
    return ValueFacts(
        address=name,
        made_by=made_by,
        shape=saved[name].shape[1:],
        dtype=saved[name].dtype.name,
        statistics=statistics,
        histogram=histogram or _sampled(vectors, saved.rows),
        norms=norms,
        most_active=rows[order[:_NAMED]].tolist(),
        least_active=rows[order[::-1][:_NAMED]].tolist(),
        projection=project(vectors[:: -(-len(vectors) // most) or 1], method),
    )


def _sampled(vectors: Floats, rows: int) -> Histogram | None:
    """Returns the histogram of a sample, whose rows each stand for several."""
    found = Histogram.of(vectors)
    if found is None or len(vectors) == rows:
        return found
    counts = np.rint(found.counts * (rows / len(vectors))).astype(np.int64)
    return replace(found, counts=counts, sampled=True)


def _join_facts(
    saved: Saved,
    join: Join,
    vectors: Mapping[str, Floats],
    rows: Rows,
    rises: Mapping[str, float],
) -> JoinFacts:
    names = [b.address for b in join.branches if b.address in vectors]
    squares = [float(_squares(vectors[name]).sum()) for name in names]
    effects = saved.plan.effects("attribution")
    attribution = None
    if all(name in effects for name in names):
        parts = [np.abs(read(saved, effects[n], rows).sum(axis=1)) for n in names]
        attribution = shares([float(part.sum()) for part in parts])
    importance = None
    if all(name in rises for name in names):
        # A loss that falls does so by chance, and counts as zero.
        importance = shares([max(rises[name], 0.0) for name in names])
    drawn = [vectors[name] for name in names[:MOST_BRANCHES]]
    similarity, uncertainty = similarities(drawn)
    return JoinFacts(
        *(join, names, shares([vectors[n].shape[1] for n in names]), shares(squares)),
        *(attribution, importance, similarity, uncertainty),
    )


def similarities(vectors: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Returns unbiased linear CKA between values, and its standard error.

    The error is that of a jackknife: an eighth of the rows is left out in turn.
    """
    widest = max(part[:1].nbytes for part in vectors)
    places = comparable(len(vectors[0]), widest, len(vectors))
    vectors, rows = [part[places] for part in vectors], len(places)
    whole = _alignment(vectors)
    groups = [
        _alignment([part[np.arange(rows) % _GROUPS != group] for part in vectors])
        for group in range(_GROUPS if rows >= 4 * _GROUPS else 0)
    ]
    if not groups:
        return whole, np.full_like(whole, np.nan)
    apart = np.stack(groups) - np.mean(groups, axis=0)
    spread = (_GROUPS - 1) / _GROUPS * np.square(apart).sum(axis=0)
    return whole, np.sqrt(spread)


def _alignment(vectors: Sequence[Floats]) -> Floats:
    with np.errstate(all="ignore"):
        grams = np.stack([centred_gram(part) for part in vectors])
        return grams @ grams.T


def _squares(vectors: Floats) -> Floats:
    """Returns the squares of numbers; those that are not finite count as nothing."""
    with np.errstate(over="ignore"):
        return np.square(np.where(np.isfinite(vectors), vectors, 0))


def _row_names(saved: Saved, rows: Rows) -> list[str]:
    """Returns the ids of rows, or their numbers."""
    if saved.identity[IDS] is None:
        return [f"row {row:,}" for row in rows.tolist()]
    return [text.shorten(str(name), _LONGEST) for name in saved.ids_of(rows)]


def _label_names(saved: Saved, rows: Rows) -> list[str] | None:
    """Returns the labels of rows, if there is one integer or class for each."""
    labels: Any = saved.labels
    if labels is None or isinstance(labels, dict | list | tuple):
        return None
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        return None
    known = labels[rows].tolist()
    names = [text.shorten(name, _LONGEST) for name in saved.class_names]
    return [names[int(n)] if 0 <= n < len(names) else str(int(n)) for n in known]


def state_of(saved: Saved) -> list[tuple[str, str]]:
    """Returns what a store is, as names and texts."""
    identity = saved.identity
    labels: Any = [text.shorten(name, _LONGEST) for name in saved.class_names]
    if not labels:
        labels = "none" if saved.labels is None else "saved"
    versions = [f"{n} {identity[n]}" for n in ("keras", "backend") if n in identity]
    return [
        ("model", saved.plan.model),
        ("rows", f"{saved.rows:,}, {'complete' if saved.complete else 'not complete'}"),
        ("values", f"{len(saved):,}"),
        ("joins", f"{len(saved.plan.joins):,}"),
        ("size", tables.size(saved.bytes_on_disk)),
        ("labels", labels if isinstance(labels, str) else text.listed(labels)),
        ("ids", "none" if identity[IDS] is None else "saved"),
        *_written(saved),
        ("versions", ", ".join(versions) or "unknown"),
        ("weights", str(identity.get("weights", "unknown"))),
        ("path", saved.path),
    ]


def _written(saved: Saved) -> Iterator[tuple[str, str]]:
    """Yields when a store in a folder was last written; a bucket does not say it."""
    with suppress(OSError):
        seconds = Path(saved.path, "zarr.json").stat().st_mtime
        moment = datetime.fromtimestamp(seconds, UTC)
        yield "written", f"{moment:%Y-%m-%d %H:%M} UTC"
