"""From a model to its plan, with symbolic tensors: no data is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.core import address
from layertap.core.plan import Ignored, Plan, Refused, Value
from layertap.errors import ModelError, OptionError
from layertap.inputs.feed import Feed
from layertap.planning.builder import Drafting
from layertap.planning.join_filter import kinds_of, of_data, undecidable_reason
from layertap.planning.reduction import AS_COMPUTED, Reduce, Reduction
from layertap.tracing.graphs.cut import Cut, cut
from layertap.tracing.model_structure import (
    built_specs,
    check_model,
    input_specs,
    specs_of,
)
from layertap.tracing.records import TracedJoin, TracedValue
from layertap.tracing.survey import survey

Patterns = str | Sequence[str] | None


def plan(
    model: keras.Model,
    *,
    like: Any = None,
    before: Patterns = None,
    outputs: Patterns = None,
    joins: str | Sequence[str] = ("concatenate",),
    dtype: str | None = None,
    reduce: Reduce = None,
    for_head: bool = False,
) -> Plan:
    """Says what a save of a model would take: its joins, their branches, the bytes.

    The model is run once with symbolic tensors; no data is needed, and it is not
    changed.

    Args:
        model: A Keras model: functional, sequential, subclassed, nested.
        like: Data that the model takes, or specs of it (objects with `shape` and
            `dtype`, such as `keras.KerasTensor`). Needed for a subclassed model that
            was never called: it has no shapes yet, and is built by this. With data,
            sizes that the model leaves open are those of the data.
        before: Glob, or globs, over the paths of joins: take every branch of those.
            By default all joins; none if `outputs` is given alone. A join that was
            left out, as not of data, is taken if it is named in full.
        outputs: Glob, or globs, over the paths of operations: take their outputs. An
            input of the model is taken if it is named in full.
        joins: Kind, or kinds, of join: `"concatenate"`, `"add"`, `"subtract"`,
            `"multiply"`, `"average"`, `"maximum"`, `"minimum"`, `"dot"`, `"stack"`,
            `"attention"` (query, key and value); `"*"` for all of them. `"all"` also
            takes what is left out else: joins of shapes, indices and masks, and those
            that are Keras' or the backend's own business.
        dtype: `"float16"` or `"bfloat16"`: what floating numbers are stored as. The
            plan has the shapes, dtypes and bytes after it, and after `reduce`.
        reduce: What is stored of each row of a value: `"mean"` or `"max"`, one number;
            `"flatten"`, all numbers along one axis; or a function of the tensor that
            keeps its rows, such as `lambda x: keras.ops.mean(x, axis=(1, 2))`, global
            average pooling. It comes before `dtype`.
        for_head: Whether to take all that the head of `layertap.split` needs: where
            connections run past the joins, their values too.

    Returns:
        The plan. Printed, it is a table.

    Raises:
        NoJoinsError: If the model joins nothing, and no outputs were asked for.
        AddressError: If a pattern matches nothing.
        OptionError: If there is no such `dtype` or `reduce`, or if the function can't
            take a value or does not keep its rows.
        ModelError: If the model has no shapes yet, or can't be heard.
        DataError: If the model can't take `like`.

    Example:
    ```python
    print(layertap.plan(model))
    layertap.plan(model, before="fusion").bytes_per_row
    ```
    """
    check_model(model)
    reduction = Reduction(dtype, reduce)
    selection = Selection(before, outputs, joins, for_head)
    specs, rows = specs_for(model, like)
    return plan_for(model, specs, selection, reduction, rows=rows)


@dataclass(frozen=True)
class Selection:
    """What is to be taken of a model.

    Attributes:
        before: As of `plan`.
        outputs: As of `plan`.
        joins: As of `plan`.
        for_head: As of `plan`.
    """

    before: Patterns = None
    outputs: Patterns = None
    joins: str | Sequence[str] = ("concatenate",)
    for_head: bool = False


def plan_for(
    model: keras.Model,
    specs: Any,
    selection: Selection,
    reduction: Reduction = AS_COMPUTED,
    *,
    rows: int | None = None,
) -> Plan:
    """Plans a model for inputs of these specs.

    Args:
        model: The model.
        specs: The structure of `InputSpec` that it is given.
        selection: What is to be taken of it.
        reduction: What is done to each value before it is stored.
        rows: A number of rows that it is known to take.
    """
    if selection.for_head and reduction.reduce is not None:
        raise OptionError(
            f"A head takes whole values, not reduced ones: for_head=True and "
            f"reduce={reduction.name!r} don't go together. Leave one of them out."
        )
    if selection.for_head and selection.before is None and selection.outputs:
        raise OptionError(
            "A head comes after joins: with for_head=True, say by `before` which."
        )
    before, outputs = selection.before, selection.outputs
    kinds, everything = kinds_of(selection.joins)
    if before is None and outputs is None:
        before = "*"
    heard = survey(model, specs, kinds if before is not None else (), rows)
    chosen: list[TracedJoin] = []
    ignored: list[Ignored] = []
    if before is not None:
        wanted = address.patterns(before)
        chosen, ignored = of_data(model.name, heard, kinds, wanted, everything)
        found = address.match(wanted, [join.path for join in chosen], what="join")
        chosen = [join for join in chosen if join.path in set(found)]
    drafting = Drafting(chosen)
    if heard.stopped is not None:
        drafting.refused.append(
            Refused(heard.stopped[0], undecidable_reason(heard.stopped[1]))
        )
    named = address.patterns(outputs)
    inputs = {name: (value,) for name, value in heard.inputs.items()}
    known = {name: inputs[name] for name in inputs if name in named} | {**heard.outputs}
    paths = address.match(named, list(known), what="operation")
    taken = [output for path in paths for output in drafting.outputs(path, known[path])]
    made = Plan(
        model.name,
        tuple(drafting.joins),
        tuple(taken),
        tuple(drafting.refused),
        drafting.recipes,
        ignored=tuple(ignored),
    )
    if selection.for_head:
        made = _for_head(model, specs, made, drafting, {**inputs, **heard.outputs})
    if not made.addresses:
        reasons = "; ".join(f"{r.address}: {r.reason}" for r in made.refused)
        raise ModelError(f"Nothing of {model.name!r} can be had as asked. {reasons}")
    return reduction.planned(made)


def cut_of(model: keras.Model, specs: Any, made: Plan) -> Cut:
    """Cuts a model before the joins of a plan.

    Args:
        model: The model.
        specs: The structure of `InputSpec` that it takes.
        made: The plan, of whole joins.

    Raises:
        ModelError: If it can't be cut there.
        OptionError: If one of the joins only leads to others of them.
    """
    for join in made.joins:
        if not join.whole:
            reasons = "; ".join(f"{r.address}: {r.reason}" for r in made.refused)
            raise ModelError(f"Not every branch of {join.path!r} can be had. {reasons}")
    branches = {
        join.path: {branch.address: branch.dtype for branch in join.branches}
        for join in made.joins
    }
    try:
        return cut(model, specs, branches, {j.kind for j in made.joins})
    except ModelError as error:
        raise ModelError(
            f"{model.name!r} can't be cut before {', '.join(map(repr, branches))}. "
            f"{error} What works: save the branches (layertap.save needs no graph), "
            "and write what comes after the join as a model of its own."
        ) from error


def _for_head(
    model: keras.Model,
    specs: Any,
    made: Plan,
    drafting: Drafting,
    known: Mapping[str, Sequence[TracedValue]],
) -> Plan:
    """Returns a plan with the values that run past its joins.

    Raises:
        ModelError: If one of them can't be had.
    """
    skips = list(cut_of(model, specs, made).skips)
    there = {output.address for output in made.outputs}
    more = []
    for skip in skips:
        path, _, _ = address.parse(skip)
        if skip not in there:
            more += [
                output
                for output in drafting.outputs(path, known.get(path, ()))
                if output.address == skip
            ]
    outputs = (*made.outputs, *more)
    for skip in set(skips) - {output.address for output in outputs}:
        reasons = [r.reason for r in drafting.refused if r.address == skip]
        raise ModelError(
            f"A head of {model.name!r} needs {skip}, which can't be had: "
            f"{'; '.join(reasons) or 'it was not heard'}."
        )
    return replace(made, outputs=outputs, skips=tuple(skips))


def specs_for(model: keras.Model, like: Any) -> tuple[Any, int | None]:
    """Returns the specs of what a model is given, and a number of rows that it takes.

    Args:
        model: The model.
        like: As of `plan`.
    """
    declared = input_specs(model)
    if like is None:
        specs = declared if declared is not None else built_specs(model)
        if specs is None:
            raise ModelError(
                f"{model.name!r} ({type(model).__name__}) was never called and has no "
                "shapes yet. Pass data or specs that it takes: plan(model, like=x)."
            )
        return specs, None
    if all(map(_is_spec, keras.tree.flatten(like))):
        return specs_of(like, declared), None
    first = Feed(like, declared).first()
    return specs_of(first.inputs, declared), first.rows


def _is_spec(leaf: Any) -> bool:
    described = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return (described and not hasattr(leaf, "__getitem__")) or isinstance(
        leaf, keras.KerasTensor
    )


__all__ = ["Plan", "Value", "plan", "plan_for"]
