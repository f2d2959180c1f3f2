"""The compiled step of a plan: its values, gradients and attributions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from layertap.core import address
from layertap.core.address import GAPS, OVERFLOWED, Effect
from layertap.core.plan import Plan, Refused, described
from layertap.core.values import unknown_address
from layertap.effects.attribution_step import AttributionStep
from layertap.effects.attributions import taken
from layertap.effects.derivatives import NONE, Derivatives
from layertap.effects.gradients import OF, GradientStep, hidden, whole_model
from layertap.effects.target import Target, stand_in
from layertap.errors import LayertapError
from layertap.inputs.convert import Batch
from layertap.planning.folded_rows import unfold
from layertap.planning.reduction import AS_COMPUTED, Reduction
from layertap.tracing.backends import current_backend
from layertap.tracing.collect import begin, tapped
from layertap.tracing.forward_pass import Arrays, Tensors, Wanted
from layertap.tracing.model_structure import fixed_rows, input_specs
from layertap.tracing.reuse.memo import remembered

# So many rows show whether rows influence each other, where a step takes any number.
_FEW_ROWS = 8


def planned_step(
    model: keras.Model,
    plan: Plan,
    reduction: Reduction,
    derivatives: Derivatives = NONE,
    *,
    joined: bool = False,
) -> "PlannedStep":
    """Returns the step of a plan: that of an unchanged model is compiled once."""
    return remembered(
        model,
        ("step", repr(plan), reduction, derivatives.key(model), joined),
        lambda: PlannedStep(model, plan, reduction, derivatives, joined),
        calls=[reduction.reduce, *derivatives.calls(model)],
    )


class PlannedStep:
    """The compiled step of a plan. With `joined`, also the outputs of its joins."""

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        reduction: Reduction,
        derivatives: Derivatives,
        joined: bool,
    ) -> None:
        self._model, self._plan, self._reduction = model, plan, reduction
        names, folded = [value.address for value in plan.computed], dict(plan.folded)
        for join in plan.joins:
            if joined and join.rebuildable:
                names.append(address.output(join.path))
                if join.addresses[0] in folded:
                    folded[names[-1]] = folded[join.addresses[0]]
        attributed = set(plan.effects("attribution").values())
        narrowed = {n: d for n, d in plan.narrowed.items() if n not in attributed}
        computed = replace(plan, narrowed=narrowed)

        def finish(tensors: Tensors) -> Tensors:
            numbers = tensors.pop(OF, None)
            for name in tensors.keys() & folded.keys():
                tensors[name] = unfold(tensors[name], *folded[name])
            results = reduction.apply(tensors, computed)
            return results if numbers is None else {**results, OF: numbers}

        kinds = {join.kind for join in plan.joins}
        wanted = Wanted(names, kinds, bool(plan.random))
        # The values that are differentiated, by the address of the gradient.
        self.gradients = {one: name for name, one in plan.effects("gradient").items()}
        self._differentiated: GradientStep | None = None
        self._attributed: AttributionStep | None = None
        if attributed:
            self._attributed = AttributionStep(model, plan, derivatives)
        target = derivatives.gradients
        if target is None or not self.gradients:
            self._tapped = tapped(model, wanted, finish)
            return
        answer = whole_model(model, wanted, self.gradients.values())
        self._differentiated = GradientStep(model, target, answer, finish)

    def begin(
        self, batch: Batch, weights: NDArray[np.float32] | None = None
    ) -> Callable[[], Arrays]:
        """Begins the pass of a batch: see `tracing.collect.begin`.

        The target of each row has a weight, by default 1.
        """
        if self._differentiated is None:
            first = begin(self._tapped, batch.inputs, batch.full)
        else:
            first = self._differentiated.begin(batch, weights)

        def finish() -> Arrays:
            arrays = first()
            arrays.pop(OF, None)
            if self._attributed is None:
                return arrays
            # Which may be the memory of the next pass.
            arrays = {name: np.array(array) for name, array in arrays.items()}
            known: Arrays = {}
            if self._reduction == AS_COMPUTED and not self._plan.folded:
                known = dict(arrays)
                for name, recipe in self._plan.recipes.items():
                    if len(recipe.addresses) == 1:
                        known[name] = known[recipe.addresses[0]]
            return self._with_attributions(arrays, self._attributed(batch, known))

        return finish

    def _with_attributions(self, arrays: Arrays, attributions: Arrays) -> Arrays:
        """Adds the attributions of a batch, reduced and narrowed as values are."""
        if self._reduction == AS_COMPUTED:
            return arrays | attributions
        gaps = attributions.pop(GAPS)
        plan = self._plan
        left = {n: d for n, d in plan.narrowed.items() if n in attributions}
        tensors = {n: ops.convert_to_tensor(a) for n, a in attributions.items()}
        tensors = self._reduction.apply(tensors, replace(plan, narrowed=left))
        reduced = {n: ops.convert_to_numpy(tensor) for n, tensor in tensors.items()}
        if left:
            parts = [arrays[OVERFLOWED]] if OVERFLOWED in arrays else []
            parts.append(reduced.pop(OVERFLOWED))
            arrays[OVERFLOWED] = np.concatenate(parts, axis=1)
        return {**arrays, **reduced, GAPS: gaps}

    def tensors(self, batch: Batch) -> Tensors:
        """Returns the values of a batch as tensors of the backend."""
        assert self._differentiated is None
        return self._tapped(batch.inputs)

    def refusals(self, batch: Batch, *, compute: bool) -> dict[str, str]:
        """Returns why values have no gradient, by their addresses.

        Without `compute`, the model is traced only: rows may influence each other.
        """
        assert self._differentiated is not None
        if not compute:
            return self._unconnected(self._differentiated.returned(batch))
        alternating = np.random.default_rng(0).permutation(batch.rows) % 2
        arrays = self.begin(batch, alternating.astype(np.float32))()
        refused, others = self._unconnected(arrays.keys()), alternating == 0
        zero = []
        for name in self._found(arrays):
            value = self.gradients[name]
            # Numbers that are not finite times zero show nothing.
            part = arrays[name][others]
            if np.any(part != 0, where=np.isfinite(part)):
                refused[value] = _INFLUENCE
            elif not arrays[name].any() and value not in self._plan.folded:
                zero.append(value)
        if zero:
            kinds = {join.kind for join in self._plan.joins}
            wanted = Wanted(zero, kinds, bool(self._plan.random))
            target = self._differentiated.target
            refused |= dict.fromkeys(
                hidden(self._model, target, wanted, batch),
                _HIDDEN.format(described(target.name)),
            )
        return refused

    def _found(self, arrays: Arrays) -> Iterable[str]:
        return self.gradients.keys() & arrays.keys()

    def _unconnected(self, returned: Iterable[str]) -> dict[str, str]:
        assert self._differentiated is not None
        cut = _CUT.format(described(self._differentiated.target.name))
        unreached = self._differentiated.unreached
        return {
            value: _UNREACHED if value in unreached else cut
            for name, value in self.gradients.items()
            if name not in returned
        }


_INFLUENCE = (
    "rows influence each other: the target of a row changes with the values of others"
)
_UNREACHED = (
    "nothing can be added to it: it is an input of the model, a part of a loop, or the "
    "output of a join that is written with the backend"
)
_HIDDEN = "{} changes with it, but the backend's derivative of that is zero"
_CUT = "no differentiable way leads from it to {}"


# Returns the plan of a model with the gradients or attributions of some values.
Build = Callable[[Mapping[Effect, Sequence[str]]], Plan]


def derive(
    model: keras.Model,
    build: Build,
    reduction: Reduction,
    derivatives: Derivatives,
    batch: Batch | None,
    specs: Any,
) -> Plan:
    """Returns a plan with gradients and attributions, where the backend has them.

    Without a batch, the model is traced with zeros: rows may influence each other.
    """
    plain = build({})
    if isinstance(derivatives.baseline, Mapping):
        for name in derivatives.baseline.keys() - set(plain.addresses):
            raise unknown_address(plain, name)
    candidates = build({"gradient": plain.addresses})
    integers = candidates.missing.keys() - plain.missing.keys()
    unfit = {address.value_of(n): candidates.missing[n] for n in integers}
    names: dict[Effect, Sequence[str]] = {}
    refused: list[Refused] = []
    of: dict[str, Any] = {}
    for kind, target in derivatives.targets.items():
        of[f"{kind}s_of"] = target.name
        probed = replace(candidates, gradients_of=target.name)
        why = unfit | _refusals(model, probed, reduction, target, batch, specs)
        if kind == "attribution":
            why |= _without_lines(plain, why)
        names[kind] = [name for name in plain.addresses if name not in why]
        refused += [Refused(address.effect(n, kind), why[n]) for n in sorted(why)]
    made = build(names)
    if derivatives.attributions is not None:
        of |= {"baseline": derivatives.baseline_name, "steps": derivatives.steps}
    return replace(made, refused=(*made.refused, *refused), **of)


def _refusals(
    model: keras.Model,
    plan: Plan,
    reduction: Reduction,
    target: Target,
    batch: Batch | None,
    specs: Any,
) -> dict[str, str]:
    """Returns why values of a plan have no gradients, by their addresses."""
    target.check(model)
    if not plan.derived:
        return {}
    compute = batch is not None
    if batch is None:
        batch = _zeros(specs)
        target = Target(stand_in) if target.of == "loss" else target
        if batch is None:
            return {}
    elif _any_rows(model):
        if batch.rows == 1:
            # Twice, these rows influence each other as any others.
            batch = taken(batch, np.zeros(2, int))
        if not current_backend().compiles_each_size:
            batch = next(batch.parts(_FEW_ROWS))
    if callable(reduction.reduce):
        # It may make something of zeros.
        reduction = AS_COMPUTED
    try:
        step = planned_step(model, plan, reduction, Derivatives(target))
        return step.refusals(batch, compute=compute)
    except LayertapError:
        raise
    except Exception as error:  # What a backend can't differentiate, it says so.
        names = plan.effects("gradient")
        if len(names) == 1:
            line = str(error).strip().partition("\n")[0]
            return dict.fromkeys(names, f"{type(error).__name__}: {line}")
        refused: dict[str, str] = {}
        for name in names:
            alone = _alone(plan, names[name])
            refused |= _refusals(model, alone, reduction, target, batch, specs)
        if not refused:
            raise
        return refused


def _alone(plan: Plan, gradient: str) -> Plan:
    """Returns a plan with one gradient."""
    others = {derived.address for derived in plan.derived} - {gradient}

    def left(named: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in named.items() if name not in others}

    kept = tuple(one for one in plan.derived if one.address == gradient)
    first = tuple(name for name in plan.channels_first if name not in others)
    return replace(
        plan,
        derived=kept,
        narrowed=left(plan.narrowed),
        padded=left(plan.padded),
        folded=left(plan.folded),
        channels_first=first,
    )


def _without_lines(plan: Plan, why: Mapping[str, str]) -> dict[str, str]:
    """Returns which further values have no attributions: parts of a place add up."""
    folded = "its rows are folded into another axis, where a line has no place"
    found = dict.fromkeys(plan.folded, folded)
    for join in plan.joins:
        bad = [name for name in join.addresses if name in why or name in found]
        if bad or not join.whole:
            part = bad[0] if bad else "one that can't be captured"
            reason = f"the parts of its join don't add up without {part}"
            found |= {n: reason for n in join.addresses if n not in bad}
    return found


def _any_rows(model: keras.Model) -> bool:
    specs = input_specs(model)
    return specs is None or fixed_rows(specs) is None


def _zeros(specs: Any) -> Batch | None:
    """Returns two rows of zeros for input specs; None if a size is unknown."""
    shapes = [spec.shape[1:] for spec in keras.tree.flatten(specs) if not spec.absent]
    dtypes = [spec.dtype for spec in keras.tree.flatten(specs) if not spec.absent]
    if "string" in dtypes or any(None in shape for shape in shapes):
        return None
    rows = fixed_rows(specs) or 2

    def zeros(spec: Any) -> Any:
        return None if spec.absent else np.zeros((rows, *spec.shape[1:]), spec.dtype)

    return Batch(0, rows, keras.tree.map_structure(zeros, specs))
