"""Makes the plan of a model, with symbolic tensors: no data is run."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import keras

from layertap.core import address
from layertap.core.address import Effect
from layertap.core.plan import Plan
from layertap.effects.derivatives import NONE, Baseline, derivatives
from layertap.effects.target import Of
from layertap.errors import (
    AddressError,
    ModelError,
    NoJoinsError,
    PartialWarning,
    RefusedError,
)
from layertap.inputs.convert import Batch
from layertap.inputs.feed import Feed
from layertap.inputs.model_file import opened
from layertap.planning.builder import PlanBuilder
from layertap.planning.folded_rows import UNDECIDED, unfold_rows
from layertap.planning.join_filter import (
    Kind,
    ignored_reason,
    requested_kinds,
    select_joins,
)
from layertap.planning.padding import Padding, padded_specs
from layertap.planning.planned_step import derive
from layertap.planning.reduction import AS_COMPUTED, Dtype, Reduce, Reduction
from layertap.planning.row_check import check_rows
from layertap.planning.selection import Patterns, Selection
from layertap.tracing.forward_pass import is_tensor
from layertap.tracing.graphs.cut import cut_before
from layertap.tracing.join_kinds import KINDS
from layertap.tracing.model_structure import built_specs, input_specs, specs_of
from layertap.tracing.records import Trace, TracedJoin
from layertap.tracing.reuse.memo import remembered
from layertap.tracing.survey import survey

# The most values that a warning names.
_MOST_REASONS = 10


def plan(
    model: keras.Model | str | os.PathLike[str],
    *,
    like: Any = None,
    before: Patterns = None,
    outputs: Patterns = None,
    joins: Kind | Sequence[Kind] = ("concatenate",),
    dtype: Dtype | None = None,
    reduce: Reduce = None,
    for_head: bool = False,
    gradients: Of | None = None,
    attributions: Of | None = None,
    baseline: Baseline = "zero",
    steps: int | None = None,
) -> Plan:
    """Plans a save: the joins of a model, their branches, and the bytes they take.

    The model runs once with symbolic tensors. It needs no data and is not changed.

    Args:
        model: A Keras model: functional, sequential, subclassed, nested. Or the path
            of its file.
        like: Data for the model, a path of data, or specs of it (objects with `shape`
            and `dtype`, such as `keras.KerasTensor`). Required for a subclassed model
            that was never called, which is built with it. Sizes that the model leaves
            open are those of the data.
        before: Glob, or globs, over paths of joins, whose branches are planned; or
            layers. All joins by default; no joins if only `outputs` is passed. The
            complete path of an ignored join includes it. A glob without `@`
            selects all calls of the operations it names; a complete path selects one.
        outputs: Glob, or globs, over paths of operations, whose outputs are planned;
            or layers. The complete name of a model input includes that input.
        joins: Kind, or kinds, of join: `"concatenate"`, `"add"`, `"subtract"`,
            `"multiply"`, `"average"`, `"maximum"`, `"minimum"`, `"dot"`, `"stack"`,
            `"attention"` (query, key and value); `"*"` for all kinds. `"all"` also
            includes ignored joins: those of shapes, indices and masks, and those
            inside Keras or the backend.
        dtype: `"float16"` or `"bfloat16"`, the stored dtype of floating values.
        reduce: How each row of a value is reduced. `"avg"` and `"max"` are Keras'
            global pooling: over all axes but the channels, by the data format of the
            operation that made the value, or of Keras; vectors stay as they are.
            `"flatten"` keeps all numbers, in one axis. Or a function of the tensor, or
            a layer, that keeps the rows. The plan has shapes, dtypes and bytes after
            `reduce`, then `dtype`.
        for_head: Whether to include all inputs of the head of `layertap.split`: also
            the tensors that bypass the joins.
        gradients: The number of each row whose gradients to all values are stored:
            `"loss"`, the compiled loss of that row alone; the index of an output; or a
            function of the outputs that returns one number for each row. See
            `layertap.save`.
        attributions: The number of each row that is attributed to all values, in the
            same forms. See `layertap.save`.
        baseline: See `layertap.save`.
        steps: See `layertap.save`.

    Returns:
        The plan. Printed, it is a table.

    Raises:
        NoJoinsError: If the model has no joins, and no outputs are requested.
        RefusedError: If a value of a join or operation that is named by its complete
            path can't be captured. Values that only a glob selects are left out: see
            `missing` of the plan.
        AddressError: If a pattern matches nothing.
        OptionError: If `dtype` or `reduce` is invalid: also if the function does not
            accept a value or keep its rows.
        ModelError: If the model has no shapes yet, or can't be traced.
        DataError: If the model does not accept `like`.

    Example:
    ```python
    print(layertap.plan(model))
    layertap.plan(model, before="fusion").bytes_per_row
    ```
    """
    selection = Selection(
        *(before, outputs, joins, for_head, Reduction(dtype, reduce)),
        derivatives=derivatives(gradients, attributions, baseline, steps),
    )
    model = opened(model, compiled=selection.derivatives.need_loss)
    specs, batch = specs_for(model, like)
    return plan_from_specs(model, specs, selection, batch)


@dataclass(frozen=True)
class BatchSpecs:
    """The input specs for some data; with `pad`, also those of unknown sizes."""

    inputs: Any
    unknown: Any = None


class Planned(NamedTuple):
    """A plan, and whether any other data of the same sizes would give it."""

    plan: Plan
    for_all_data: bool


def data_specs(model: keras.Model, feed: Feed, selection: Selection) -> BatchSpecs:
    """Returns the input specs for data: those of the first batch, or the largest."""
    if selection.pad:
        return BatchSpecs(*padded_specs(model, feed, selection.pad))
    return BatchSpecs(specs_of(feed.first().inputs, feed.specs))


def plan_for_batch(
    model: keras.Model, specs: BatchSpecs, selection: Selection, first: Batch
) -> Planned:
    """Plans a model for input specs and a batch: an unchanged model once."""
    plan_it = _plan if specs.unknown is None else _padded_plan
    return remembered(
        model,
        ("plan", selection.key(model), repr(specs)),
        partial(plan_it, model, specs, selection, first),
        calls=selection.calls(model),
        keep=lambda made: made.for_all_data,
    )


def _trace(
    model: keras.Model, specs: Any, selection: Selection, rows: int | None
) -> Trace:
    """Traces a model for a selection: an unchanged model once."""
    only_outputs = selection.before is None and selection.outputs is not None
    kinds = [] if only_outputs else requested_kinds(selection.joins)[0]
    return remembered(
        model,
        ("trace", *kinds, repr(specs)),
        partial(survey, model, specs, kinds, rows),
        keep=lambda trace: trace.any_rows,
    )


def _padded_plan(
    model: keras.Model, specs: BatchSpecs, selection: Selection, first: Batch
) -> Planned:
    """Plans a model for the largest sizes of its inputs, and for unknown ones."""
    # Where the two plans disagree, a size follows from the inputs.
    as_computed = replace(selection, reduction=AS_COMPUTED, derivatives=NONE)
    open_specs = BatchSpecs(specs.unknown)
    open_plan, always = _plan(model, open_specs, as_computed, first)
    shapes = {value.address: value.shape for value in open_plan.values}
    padding = Padding(selection.pad or False, shapes)
    made, sure = _plan(model, specs, selection, first, padding)
    if made.addresses != [*padding.shapes]:
        raise ModelError(
            f"{model.name!r} has other values for inputs of other sizes, which can't "
            "be padded to one size. Select by `before` or `outputs` values that are "
            "always there."
        )
    return Planned(made, always and sure)


def plan_from_specs(
    model: keras.Model, specs: Any, selection: Selection, batch: Batch | None = None
) -> Plan:
    """Plans a model for input specs, and with a batch if there is one."""
    return _plan(model, BatchSpecs(specs), selection, batch).plan


def _plan(
    model: keras.Model,
    batch_specs: BatchSpecs,
    selection: Selection,
    batch: Batch | None = None,
    padding: Padding | None = None,
) -> Planned:
    """Plans a model for input specs.

    `batch` decides what a trace does not show: which values have its rows, and how.
    """
    specs = batch_specs.inputs
    before, named = selection.before, address.patterns(selection.outputs)
    if before is None and selection.outputs is None:
        before = "*"
    kinds, everything = requested_kinds(selection.joins)
    rows = None if batch is None else batch.rows
    trace = _trace(model, specs, selection, rows)
    unknown = any(v.times is None and not v.fault for v in trace.values.values())
    if batch is not None:
        trace = check_rows(model, trace, batch)
    patterns = address.patterns(before)
    try:
        joins, ignored = select_joins(model.name, trace, kinds, patterns, everything)
    except NoJoinsError as error:
        others = _other_joins(survey(model, specs, list(KINDS), rows))
        raise NoJoinsError(f"{error}{others}") from error
    known = [p for p in trace.outputs if p not in trace.inputs or p in named]
    matching = address.match(named, known, what="operation")
    chosen = {n: v for path in matching for n, v in trace.outputs_of(path).items()}
    if batch is None or selection.for_head or selection.pad:
        data = None
    else:
        data = batch.inputs
    joins, chosen = unfold_rows(model, data, joins, chosen)
    skips = _skips(model, specs, joins) if selection.for_head else []

    def build(effects: Mapping[Effect, Sequence[str]]) -> Plan:
        builder = PlanBuilder(selection.reduction, padding)
        builder.add_joins(joins)
        builder.add_outputs(chosen)
        builder.add_stop(trace.stopped)
        builder.add_skips(model.name, skips, trace.values)
        for kind, names in effects.items():
            builder.add_effects(kind, names)
        return builder.build(model.name, ignored, trace.random)

    made = build({})
    if not made.addresses:
        reasons = "; ".join(f"{r.address}: {r.reason}" for r in made.refused)
        raise RefusedError(
            f"{model.name!r} has no values that can be captured for these options. "
            f"{reasons}"
        )
    reduction, effects = selection.reduction, selection.derivatives
    if effects.targets:
        made = derive(model, build, reduction, effects, batch, specs)
    _check_named(made, [*patterns, *named])
    undecided = any(UNDECIDED in refused.reason for refused in made.refused)
    return Planned(made, trace.any_rows and not unknown and not undecided)


def _skips(model: keras.Model, specs: Any, joins: Sequence[TracedJoin]) -> list[str]:
    """Returns the addresses of the connections that run past joins to a head."""
    # Of the dtypes that the joins receive, not of the stored ones.
    computed = PlanBuilder(AS_COMPUTED)
    computed.add_joins(joins)
    return list(cut_before(model, specs, computed.joins, computed.refused).skips)


def _other_joins(trace: Trace) -> str:
    """Returns what to pass for a model's joins of other kinds, if it has any."""
    kinds = Counter(
        join.kind for join in trace.joins.values() if not ignored_reason(join)
    )
    if not kinds:
        return ""
    listed = ", ".join(f"{count} of kind {kind!r}" for kind, count in kinds.items())
    return f" It has other joins: {listed}. Pass joins={next(iter(kinds))!r}."


def _check_named(plan: Plan, patterns: Sequence[str]) -> None:
    """Raises if a value of a join or operation that was named can't be captured."""
    for name, reason in plan.missing.items():
        try:
            path, side, _ = address.parse(name)
        except AddressError:
            # The operation at which the trace ended.
            continue
        if not any(address.names(pattern, path) for pattern in patterns):
            continue
        if side == "in":
            plan.check_complete(
                path, f"Pass a glob, such as '{path}*', for the others."
            )
        raise RefusedError(f"{name} can't be captured: {reason}. Leave it out.")


def warn_of_missing(plan: Plan, stacklevel: int = 3) -> None:
    """Warns of values that can't be captured, in the name of the caller's caller."""
    if plan.missing:
        reasons = [f"{name}: {why}" for name, why in plan.missing.items()]
        if len(reasons) > _MOST_REASONS:
            reasons[_MOST_REASONS:] = [f"{len(reasons) - _MOST_REASONS} more"]
        warnings.warn(
            f"Values of {plan.model!r} can't be captured. {'; '.join(reasons)}. "
            "The others are.",
            PartialWarning,
            stacklevel=stacklevel,
        )


def specs_for(model: keras.Model, like: Any) -> tuple[Any, Batch | None]:
    """Returns the input specs of a model, and a batch of data if `like` is data."""
    declared = input_specs(model)
    if like is None:
        specs = declared if declared is not None else built_specs(model)
        if specs is None:
            raise ModelError(
                f"{model.name!r} ({type(model).__name__}) was never called and has no "
                "shapes yet. Pass data or specs for it: plan(model, like=x)."
            )
        return specs, None
    if not isinstance(like, str) and all(map(_is_spec, keras.tree.flatten(like))):
        return specs_of(like, declared), None
    first = Feed(like, declared).first()
    return specs_of(first.inputs, declared), first


def _is_spec(leaf: Any) -> bool:
    symbolic = isinstance(leaf, keras.KerasTensor) or not hasattr(leaf, "__getitem__")
    return leaf is None or (is_tensor(leaf) and symbolic)
