"""The attributions of a plan, batch by batch."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import keras
import ml_dtypes
import numpy as np

from layertap.core import address, tables
from layertap.core.address import GAPS
from layertap.core.plan import Plan
from layertap.effects.attributions import COMPLETE, Attribution
from layertap.effects.derivatives import Derivatives
from layertap.effects.gradients import head_alone, whole_model
from layertap.effects.line import Array, Line
from layertap.errors import ModelError, OptionError
from layertap.inputs.convert import Batch
from layertap.tracing.collect import begin, tapped
from layertap.tracing.forward_pass import Arrays, Wanted
from layertap.tracing.graphs.cut import cut_before
from layertap.tracing.model_structure import input_specs, layers_of, specs_of

# Parts miss rounding, too: so many units of the precision of half of a float.
_ROUNDING = 8


class AttributionStep:
    """Computes the attributions of a plan: each join on a line of its own.

    Where a model can be cut before a join, only its head goes along the line.
    """

    def __init__(self, model: keras.Model, plan: Plan, chosen: Derivatives) -> None:
        self._model, self._plan = model, plan
        self._derivatives = chosen
        self._made: Any = None

    def __call__(self, batch: Batch, known: Arrays) -> Arrays:
        """Returns the attributions of a batch, and the gap of each row.

        `known` are values of the batch that were computed before.
        """
        arrays, gaps = {}, []
        for attribution, rows, values, baseline in self._lines(batch, known):
            parts, gap = attribution(rows, values, baseline)
            gaps.append(gap)
            for name, part in parts.items():
                arrays[address.effect(name, "attribution")] = part
        return {**arrays, GAPS: np.stack(gaps, axis=1)}

    def ends(self, batch: Batch) -> dict[str, tuple[Array, Array]]:
        """Returns the target of each row at both ends of each line."""
        lines = zip(self._plan.lines, self._lines(batch, {}), strict=True)
        return {
            place: attribution.line.ends(rows, values, baseline)
            for place, (attribution, rows, values, baseline) in lines
        }

    def _lines(
        self, batch: Batch, known: Arrays
    ) -> Iterator[tuple[Attribution, Batch, Arrays, Any]]:
        """Yields each line, with its inputs, the values and the baseline."""
        if self._made is None:
            self._made = self._make(batch)
        step, needed, lines = self._made
        values = known
        if not needed <= known.keys():
            values = begin(step, batch.inputs)()
            values = {name: np.array(array) for name, array in values.items()}
        for attribution, crossing in lines:
            own = {name: values[name] for name in attribution.line.names}
            baseline = {name: self._baseline(name, own[name]) for name in own}
            rows = batch
            if crossing is not None:
                rows = replace(batch, inputs={name: values[name] for name in crossing})
            yield attribution, rows, own, baseline

    def _make(self, batch: Batch) -> Any:
        """Returns the step that computes values, and the lines with their inputs."""
        model, plan, chosen = self._model, self._plan, self._derivatives
        assert chosen.attributions is not None
        kinds, random = {join.kind for join in plan.joins}, bool(plan.random)
        needed: dict[str, None] = {}
        lines = []
        for place, names in plan.lines.items():
            head = self._head(place, batch)
            answer = whole_model(model, Wanted((), kinds, random), names)
            crossing = None
            if head is not None:
                answer = head_alone(head, names)
                crossing = list(input_specs(head))
            line = Line(
                model, names, chosen.attributions, answer, from_inputs=head is not None
            )
            lines.append(
                (Attribution(line, chosen.steps, missed_share(model)), crossing)
            )
            needed |= dict.fromkeys([*names, *(crossing or ())])
        return tapped(model, Wanted(needed, kinds, random)), needed.keys(), lines

    def _head(self, place: str, batch: Batch) -> keras.Model | None:
        """Returns the model from a join on; None where it can't be cut there."""
        plan = self._plan
        joins = [join for join in plan.joins if join.path == place]
        if not joins or plan.random:
            return None
        # In the dtypes that the join receives.
        branches = tuple(
            replace(b, dtype=plan.narrowed.get(b.address, b.dtype))
            for b in joins[0].branches
        )
        specs = specs_of(batch.inputs, input_specs(self._model))
        try:
            join = replace(joins[0], branches=branches)
            return cut_before(self._model, specs, [join], plan.refused).head(
                f"{self._model.name}_head"
            )
        except (ModelError, OptionError):
            return None

    def _baseline(self, name: str, value: Any) -> Any:
        """Returns the baseline of a value, in its shape, for all rows."""
        given = self._derivatives.baseline
        sizes = (1, *value.shape[1:])
        if not isinstance(given, Mapping):
            return np.zeros(sizes, value.dtype)
        if name not in given:
            raise OptionError(
                f"`baseline` has nothing for {name}. Expected an array for each value "
                f"with attributions. Received {', '.join(given)}."
            )
        array = np.asarray(given[name])
        try:
            return np.broadcast_to(array, sizes).astype(value.dtype)
        except ValueError as error:
            raise OptionError(
                f"`baseline` has another shape for {name}. Expected "
                f"{tables.shape(sizes[1:])}, or one that can be broadcast to it. "
                f"Received {tables.shape(array.shape)}."
            ) from error


def missed_share(model: keras.Model) -> float:
    """Returns what share of a target its parts may miss in the model's precision."""
    dtypes = {getattr(layer, "compute_dtype", "") for layer in layers_of(model)}
    coarse = [
        float(ml_dtypes.finfo(d).eps) for d in ("float16", "bfloat16") if d in dtypes
    ]
    return max([COMPLETE, *(_ROUNDING * step for step in coarse)])
