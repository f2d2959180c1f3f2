"""Integrated gradients: the part of each number of some values in the answer.

Sundararajan, Taly, Yan 2017, "Axiomatic Attribution for Deep Networks". The values go
on a straight line from a baseline to what they are. The mean of the gradients on that
line, times the difference, adds up to the change of the target in each row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from layertap.effects.line import Array, Line
from layertap.inputs.convert import Batch
from layertap.tracing.forward_pass import Arrays
from layertap.tracing.model_structure import map_arrays

# Gradients at so many places on a line, where no number is passed. Where the parts then
# do not add up within this share, the line is divided, up to so many gradients a row.
STEPS, COMPLETE, _MOST = 16, 1e-5, 2048
# Gradients in each part of a divided line.
_NODES = 2


@dataclass
class _Sums:
    """The mean gradients of the rows of a batch, as far as they were gathered."""

    means: Arrays
    # The change of the target that they account for.
    changes: Array

    def without(self, rows: Array) -> "_Sums":
        """Returns sums that begin again for some rows."""
        means = {name: mean.copy() for name, mean in self.means.items()}
        changes = self.changes.copy()
        for array in (*means.values(), changes):
            array[rows] = 0
        return _Sums(means, changes)

    def add(self, row: int, gradients: Arrays, change: float) -> None:
        for name, gradient in gradients.items():
            self.means[name][row] += gradient
        self.changes[row] += change


class _Piece(NamedTuple):
    """A piece of the line of a row, with the target and its slope at both ends.

    Where slopes are not known, they are equal.
    """

    row: int
    start: float
    end: float
    numbers: tuple[float, float]
    slopes: tuple[float, float]

    def middle(self) -> float:
        """Returns where to divide it: where the tangents of its ends meet.

        A target of piecewise linear layers has a bend there. Elsewhere it is as good
        as the middle.
        """
        (f0, f1), (d0, d1), (a, b) = self.numbers, self.slopes, self[1:3]
        middle = (a + b) / 2
        if d0 == d1:
            return middle
        bend = (f1 - f0 + d0 * a - d1 * b) / (d0 - d1)
        margin = (b - a) * 1e-3
        return bend if a + margin < bend < b - margin else middle


# A part of a divided piece, the change that its slopes give, and its summed gradients.
_Part = tuple[_Piece, float, Arrays]


class Attribution:
    """Computes the attributions along one line for batches.

    Args:
        line: The line.
        steps: How many gradients; None for as many as it takes.
        share: Which share of the target the parts may miss then.
    """

    def __init__(self, line: Line, steps: int | None, share: float) -> None:
        self.line = line
        self._steps = steps
        self._share = share

    def __call__(
        self, batch: Batch, values: Arrays, baseline: Mapping[str, Array]
    ) -> tuple[Arrays, Array]:
        """Returns the attributions by the values' addresses, and the gap of each row.

        A gap is what the parts miss of the change of the target, as a share of the
        largest of the target at both ends and of the sizes of the parts.
        """
        differences = {
            name: _wide(values[name]) - _wide(baseline[name])
            for name in self.line.names
        }
        rule = _rule(self._steps or STEPS)
        start = dict(baseline)
        (first, last), means = self.line.integrate(batch, rule, values, start)
        sums = _Sums(means, _added(means, differences))
        scale = np.maximum(np.abs(first), np.abs(last))
        if self._steps is None:
            most = self._share * np.maximum(scale, _sizes(sums.means, differences))
            missed = np.flatnonzero(np.abs(sums.changes - (last - first)) > most)
            pieces = [
                _Piece(row, 0, 1, (first[row], last[row]), (0, 0))
                for row in missed.tolist()
            ]
            sums = sums.without(missed)
            measure = _Measure(self.line, batch, values, start, differences)
            _divide(pieces, measure, sums, most / 8)
        scale = np.maximum(scale, _sizes(sums.means, differences))
        gaps = np.abs(sums.changes - (last - first))
        gaps = np.divide(gaps, scale, out=np.zeros_like(gaps), where=scale > 0)
        parts = {name: mean * differences[name] for name, mean in sums.means.items()}
        return parts, gaps.astype(np.float32)


def _divide(
    pieces: list[_Piece], measure: "_Measure", sums: _Sums, most: Array
) -> None:
    """Divides pieces of lines until each accounts for its change of the target."""
    spent = dict.fromkeys((piece.row for piece in pieces), 0)
    while pieces:
        parts = [part for two in measure.divided(pieces) for part in two]
        pieces = []
        for part, change, gradients in parts:
            spent[part.row] += _NODES + 1
            missed = abs(change - (part.numbers[1] - part.numbers[0]))
            if missed <= most[part.row] or spent[part.row] >= _MOST:
                sums.add(part.row, gradients, change)
            else:
                pieces.append(part)


@dataclass
class _Measure:
    """Measures the target, its slope along the line, and its gradients."""

    line: Line
    batch: Batch
    values: Arrays
    start: Arrays
    differences: Arrays

    @property
    def room(self) -> int:
        """The rows of a full batch."""
        return max(self.batch.rows, self.batch.full or 0)

    def __call__(self, at: Array, rows: Array) -> tuple[Array, Array, Arrays]:
        """Measures rows, each at a place on its line, a full batch at a time."""
        starts = range(0, len(rows), self.room)
        parts = [slice(start, start + self.room) for start in starts]
        found = [self._measured(at[part], rows[part]) for part in parts]
        numbers, slopes = (np.concatenate([one[i] for one in found]) for i in (0, 1))
        gradients = {
            n: np.concatenate([one[2][n] for one in found]) for n in found[0][2]
        }
        return numbers, slopes, gradients

    def _measured(self, at: Array, rows: Array) -> tuple[Array, Array, Arrays]:
        # Of one size, which is compiled once, and which the model accepts.
        padded, count = np.resize(rows, self.room), len(rows)
        values, differences = (
            {name: array[padded] for name, array in arrays.items()}
            for arrays in (self.values, self.differences)
        )
        batch, at = taken(self.batch, padded), np.resize(at, self.room)
        numbers, gradients = self.line.evaluate(batch, at, values, self.start)
        slopes = _added(gradients, differences)
        found = {name: gradient[:count] for name, gradient in gradients.items()}
        return numbers[:count], slopes[:count], found

    def divided(self, pieces: Sequence[_Piece]) -> Iterator[list[_Part]]:
        """Yields two parts of each piece, measured at their nodes and in the middle."""
        size = max(self.room // (2 * _NODES + 1), 1)
        for start in range(0, len(pieces), size):
            yield from self._divided(pieces[start : start + size])

    def _divided(self, pieces: Sequence[_Piece]) -> Iterator[list[_Part]]:
        nodes, shares = _rule(_NODES)
        count = 2 * _NODES + 1
        middles = [piece.middle() for piece in pieces]
        at = [
            np.array(
                [*(p.start + nodes * (m - p.start)), *(m + nodes * (p.end - m)), m]
            )
            for p, m in zip(pieces, middles, strict=True)
        ]
        rows = np.repeat([piece.row for piece in pieces], count)
        numbers, slopes, gradients = self(np.concatenate(at), rows)
        for place, (piece, middle) in enumerate(zip(pieces, middles, strict=True)):
            first = place * count
            number = float(numbers[first + count - 1])
            (f0, f1), parts = piece.numbers, []
            for ends, known in (
                ((piece.start, middle), (f0, number)),
                ((middle, piece.end), (number, f1)),
            ):
                part = slice(first, first := first + _NODES)
                length = ends[1] - ends[0]
                slope = (slopes[part][0], slopes[part][-1])
                summed = {
                    name: np.tensordot(shares * length, gradient[part], 1)
                    for name, gradient in gradients.items()
                }
                change = float(shares @ slopes[part]) * length
                parts.append((_Piece(piece.row, *ends, known, slope), change, summed))
            yield parts


def taken(batch: Batch, rows: Array) -> Batch:
    """Returns rows of a batch, also repeated."""
    take = partial(map_arrays, lambda array: array[rows])
    structures = (batch.inputs, batch.labels, batch.sample_weight)
    inputs, labels, weights = (None if s is None else take(s) for s in structures)
    return Batch(batch.row, len(rows), inputs, labels, weights)


@cache
def _rule(count: int) -> tuple[Array, Array]:
    """Returns the nodes and the weights of Gauss and Legendre between 0 and 1."""
    nodes, shares = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, shares / 2


def _added(gradients: Arrays, differences: Arrays) -> Array:
    """Returns the sum of the parts of each row."""
    parts = [_by_row(g * differences[name]) for name, g in gradients.items()]
    return np.sum(parts, axis=0)


def _by_row(array: Array) -> Array:
    return array.reshape(len(array), -1).sum(axis=1, dtype=np.float64)


def _sizes(means: Arrays, differences: Arrays) -> Array:
    """Returns the sum of the sizes of the parts of each row."""
    parts = [np.abs(_by_row(mean * differences[n])) for n, mean in means.items()]
    return np.sum(parts, axis=0)


def _wide(array: Array) -> Array:
    return array if array.dtype == np.float64 else array.astype(np.float32)
