"""From a model to its plan, with symbolic tensors: no data is run."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import keras

from layertap import address, listening
from layertap.choosing import inner_first, kinds_of, of_data, undecided
from layertap.errors import ModelError
from layertap.feed import Feed
from layertap.plans import Branch, Ignored, Join, Output, Plan, Recipe, Refused, Value
from layertap.reducing import AS_COMPUTED, Reduce, Reduction

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
        outputs: Glob, or globs, over the paths of operations: take their outputs.
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
    listening.check_model(model)
    reduction = Reduction(dtype, reduce)
    specs, rows = _specs(model, like)
    return plan_for(
        model,
        specs,
        rows=rows,
        before=before,
        outputs=outputs,
        joins=joins,
        reduction=reduction,
    )


def plan_for(
    model: keras.Model,
    specs: Any,
    *,
    rows: int | None = None,
    before: Patterns = None,
    outputs: Patterns = None,
    joins: str | Sequence[str] = ("concatenate",),
    reduction: Reduction = AS_COMPUTED,
) -> Plan:
    """Plans a model for inputs of these specs.

    Args:
        model: The model.
        specs: The structure of `listening.InputSpec` that it is given.
        rows: A number of rows that it is known to take.
        before: As of `plan`.
        outputs: As of `plan`.
        joins: As of `plan`.
        reduction: What is done to each value before it is stored.
    """
    kinds, everything = kinds_of(joins)
    if before is None and outputs is None:
        before = "*"
    heard = listening.survey(model, specs, kinds if before is not None else (), rows)
    chosen: list[listening.JoinHeard] = []
    ignored: list[Ignored] = []
    if before is not None:
        wanted = address.patterns(before)
        chosen, ignored = of_data(model.name, heard, kinds, wanted, everything)
        found = address.match(wanted, [join.path for join in chosen], what="join")
        chosen = [join for join in chosen if join.path in set(found)]
    drafting = _Drafting(chosen)
    if heard.stopped is not None:
        drafting.refused.append(Refused(heard.stopped[0], undecided(heard.stopped[1])))
    paths = address.match(
        address.patterns(outputs), list(heard.outputs), what="operation"
    )
    taken = [
        output
        for path in paths
        for output in drafting.outputs(path, heard.outputs[path])
    ]
    made = Plan(
        model.name,
        tuple(drafting.joins),
        tuple(taken),
        tuple(drafting.refused),
        drafting.recipes,
        ignored=tuple(ignored),
    )
    if not made.addresses:
        reasons = "; ".join(f"{r.address}: {r.reason}" for r in made.refused)
        raise ModelError(f"Nothing of {model.name!r} can be had as asked. {reasons}")
    return reduction.planned(made)


class _Drafting:
    """A plan in the making: what is stored, what is an alias, what is refused."""

    def __init__(self, joins: Iterable[listening.JoinHeard]) -> None:
        self.joins: list[Join] = []
        self.refused: list[Refused] = []
        self.recipes: dict[str, Recipe] = {}
        # Where a tensor is to be found: its alias, and the recipe.
        self._known: dict[Hashable, tuple[str, Recipe]] = {}
        for heard in inner_first(list(joins)):
            self._add(heard)

    def _add(self, heard: listening.JoinHeard) -> None:
        branches = []
        for index, value in enumerate(heard.inputs):
            name = address.branch(heard.path, index)
            if self._allowed(name, value):
                branches.append(Branch(*self._draft(name, value)))
        join = Join(
            heard.path,
            heard.kind,
            heard.axis,
            heard.output.shape,
            heard.output.dtype,
            tuple(branches),
            whole=len(branches) == len(heard.inputs),
        )
        self.joins.append(join)
        if join.kind != "concatenate" or not join.whole or not join.axis:
            return
        if all(branch.dtype == join.dtype for branch in branches):
            recipe = Recipe(tuple(self._leaves(join)), join.axis)
            self._known.setdefault(
                heard.output.token, (address.output(join.path), recipe)
            )

    def outputs(
        self, path: str, values: Sequence[listening.ValueHeard]
    ) -> Iterable[Output]:
        """Drafts the outputs of one operation."""
        for index, value in enumerate(values):
            name = address.output(path, index, len(values))
            if self._allowed(name, value):
                yield Output(*self._draft(name, value))

    def _allowed(self, name: str, value: listening.ValueHeard) -> bool:
        reason = value.fault
        if not reason and not value.by_row:
            reason = (
                f"it has shape {value.shape}, which does not begin with one row for "
                "each row of the data"
            )
        if reason:
            self.refused.append(Refused(name, reason))
        return not reason

    def _draft(
        self, name: str, value: listening.ValueHeard
    ) -> tuple[str, str, tuple[int | None, ...], str, str | None]:
        alias, recipe = self._known.get(value.token, (None, None))
        if recipe is None:
            self._known[value.token] = (name, Recipe((name,)))
        else:
            self.recipes[name] = recipe
        return name, value.made_by, value.shape, value.dtype, alias

    def _leaves(self, join: Join) -> Iterable[str]:
        """Yields the addresses that a join is rebuilt from, joins within it undone."""
        for branch in join.branches:
            recipe = self.recipes.get(branch.address)
            if recipe and (len(recipe.addresses) == 1 or recipe.axis == join.axis):
                yield from recipe.addresses
            else:
                yield branch.address


def _specs(model: keras.Model, like: Any) -> tuple[Any, int | None]:
    declared = listening.input_specs(model)
    if like is None:
        specs = declared if declared is not None else listening.built_specs(model)
        if specs is None:
            raise ModelError(
                f"{model.name!r} ({type(model).__name__}) was never called and has no "
                "shapes yet. Pass data or specs that it takes: plan(model, like=x)."
            )
        return specs, None
    if all(map(_is_spec, keras.tree.flatten(like))):
        return listening.specs_of(like, declared), None
    first = Feed(like, declared).first()
    return listening.specs_of(first.inputs, declared), first.rows


def _is_spec(leaf: Any) -> bool:
    described = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return (described and not hasattr(leaf, "__getitem__")) or isinstance(
        leaf, keras.KerasTensor
    )


__all__ = ["Plan", "Value", "plan", "plan_for"]
