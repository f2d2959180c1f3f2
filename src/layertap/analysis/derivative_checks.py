"""Checks saved gradients by finite differences, and attributions by their sums."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from layertap.analysis.comparison import Check
from layertap.core import tolerance
from layertap.core.plan import Plan
from layertap.effects.attribution_step import AttributionStep, missed_share
from layertap.effects.derivatives import Derivatives
from layertap.effects.gradients import OF, GradientStep, whole_model
from layertap.inputs.convert import Batch
from layertap.tracing.collect import begin, tapped
from layertap.tracing.forward_pass import Arrays, Change, Tensor, Wanted

# The length of a finite difference, relative to the largest number of a row, and the
# share of its terms' sizes that it may miss, in half of the rows: the target has bends.
_LENGTH, _SHARE = 1e-2, 0.05


class DerivativeChecks:
    """The checks of the gradients and attributions of a store, batch by batch.

    Those of reduced and padded values can only be recomputed.

    Args:
        model: The model.
        plan: The plan of the store.
        derivatives: The targets of its gradients and attributions.
    """

    def __init__(
        self, model: keras.Model, plan: Plan, derivatives: Derivatives
    ) -> None:
        self._plan = plan
        whole = plan.reduce is None and not plan.padded
        effects = plan.effects("gradient") if whole else {}
        self._names = {n: e for n, e in effects.items() if n not in plan.folded}
        adds = plan.reduce in (None, "flatten")
        self._lines = plan.lines if adds else {}
        self.finite = {
            name: Check(effect, what="gradient, finite differences")
            for name, effect in self._names.items()
        }
        self.sums = {
            place: Check(place, what="attributions added, change of the target")
            for place in self._lines
        }
        self.checks = [*self.finite.values(), *self.sums.values()]
        self._missed = missed_share(model)
        kinds, random = {join.kind for join in plan.joins}, bool(plan.random)
        if self._lines:
            self._attributed = AttributionStep(model, plan, derivatives)
        if self._names and derivatives.gradients is not None:
            answer = whole_model(model, Wanted((), kinds, random), self._names)
            target = derivatives.gradients
            self._values = tapped(model, Wanted(self._names, kinds, random))
            self._shifted = GradientStep(model, target, answer, move=_shifted)

    def add(self, batch: Batch, stored: Arrays, *, differences: bool) -> None:
        """Checks the stored rows of a batch, by differences too if that is asked."""
        if self._lines:
            ends = self._attributed.ends(batch)
            for place, names in self._lines.items():
                self._add_sums(self.sums[place], batch.row, names, stored, ends[place])
        if self._names and differences:
            self._add_differences(batch, stored)

    def _add_sums(
        self,
        check: Check,
        row: int,
        names: list[str],
        stored: Arrays,
        ends: tuple[NDArray[Any], NDArray[Any]],
    ) -> None:
        effects = self._plan.effects("attribution")
        arrays = [stored[effects[name]] for name in names]
        parts = [_by_row(array) for array in arrays]
        rows = len(parts[0])
        first, last = (end[:rows] for end in ends)
        sizes = [np.abs(first), np.abs(last), np.sum(np.abs(parts), axis=0)]
        gaps = np.abs(np.sum(parts, axis=0) - (last - first))
        allowed = max(2 * self._missed, *(2 * _step(array) for array in arrays))
        places = list(self._plan.lines)
        known = stored["gaps"][:, places.index(check.address)]
        check.judge(row, gaps, (allowed + known) * np.max(sizes, axis=0))

    def _add_differences(self, batch: Batch, stored: Arrays) -> None:
        """Compares gradients, one after the other, with differences of the target."""
        values = begin(self._values, batch.inputs)()
        zeros = {name: np.zeros_like(array) for name, array in values.items()}
        random = np.random.default_rng(0)
        for name, check in self.finite.items():
            gradient = stored[self._names[name]]
            value = tolerance.wide(values[name])
            direction = random.standard_normal(value.shape)
            axes = tuple(range(1, value.ndim))
            length = _LENGTH * (np.abs(value).max(axis=axes, keepdims=True) + 1e-3)
            numbers = []
            for sign in (1, -1):
                shift = (sign * length * direction).astype(values[name].dtype)
                moved = {**zeros, name: shift}
                numbers.append(self._shifted.begin(batch, shift=moved)()[OF])
            rows = len(gradient)
            change = (numbers[0] - numbers[1])[:rows].astype(np.float64)
            terms = tolerance.wide(gradient) * (2 * length * direction)[:rows]
            missed = np.abs(change - _by_row(terms))
            noise = 64 * np.finfo(np.float32).eps * np.abs(numbers[0][:rows])
            allowed = _SHARE * _by_row(np.abs(terms)) + noise
            if np.median(missed - allowed) <= 0:
                # The others have bends within that length.
                allowed = np.maximum(allowed, missed)
            check.judge(batch.row, missed, allowed)


def _shifted(arrays: Mapping[str, Any]) -> Change:
    """Adds to values."""

    def change(name: str, tensor: Tensor) -> Tensor:
        return tensor + arrays["shift"][name]

    return change


def _by_row(array: NDArray[Any]) -> NDArray[np.float64]:
    return tolerance.wide(array).reshape(len(array), -1).sum(axis=1)


def _step(array: NDArray[Any]) -> float:
    return tolerance.precision(array.dtype.name)
