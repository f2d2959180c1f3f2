"""From a model to its plan, with symbolic tensors: no data is run."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from layertap import address, listening
from layertap.errors import ModelError, NoJoinsError
from layertap.feed import Feed
from layertap.plans import Branch, Join, Output, Plan, Recipe, Refused, Value
from layertap.reducing import AS_COMPUTED, Reduce, Reduction

Patterns = str | Sequence[str] | None


def plan(
    model: keras.Model,
    *,
    like: Any = None,
    before: Patterns = None,
    outputs: Patterns = None,
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
            By default all joins; none if `outputs` is given alone.
        outputs: Glob, or globs, over the paths of operations: take their outputs.
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
        model, specs, rows=rows, before=before, outputs=outputs, reduction=reduction
    )


def plan_for(
    model: keras.Model,
    specs: Any,
    *,
    rows: int | None = None,
    before: Patterns = None,
    outputs: Patterns = None,
    reduction: Reduction = AS_COMPUTED,
) -> Plan:
    """Plans a model for inputs of these specs.

    Args:
        model: The model.
        specs: The structure of `listening.InputSpec` that it is given.
        rows: A number of rows that it is known to take.
        before: As of `plan`.
        outputs: As of `plan`.
        reduction: What is done to each value before it is stored.
    """
    heard = listening.survey(model, specs, rows)
    joins = list(_once(join for join in heard.joins.values() if _joins_data(join)))
    if before is None and outputs is None:
        before = "*"
    if before is not None and not joins:
        raise NoJoinsError(
            f"{model.name!r} concatenates nothing, so there is nothing before a join. "
            'To save what layers return, ask for `outputs=`, for instance outputs="*".'
        )
    paths = address.match(
        address.patterns(before), [join.path for join in joins], what="join"
    )
    drafting = _Drafting([join for join in joins if join.path in set(paths)])
    paths = address.match(
        address.patterns(outputs), list(heard.outputs), what="operation"
    )
    found = [
        branch_or_output
        for path in paths
        for branch_or_output in drafting.outputs(path, heard.outputs[path])
    ]
    made = Plan(
        model.name,
        tuple(drafting.joins),
        tuple(found),
        tuple(drafting.refused),
        drafting.recipes,
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
        self._known: dict[int, tuple[str, Recipe]] = {}
        for heard in joins:
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
        if join.whole and join.axis and all(b.dtype == join.dtype for b in branches):
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
        if not reason and value.shape[:1] != (None,):
            reason = f"its shape {value.shape} does not begin with the rows of the data"
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


def _joins_data(join: listening.JoinHeard) -> bool:
    """Whether a join is one of data: numbers, with the rows of the data.

    Shapes, indices and weights that a layer concatenates have no such rows, and
    booleans are the masks that Keras computes beside the data.
    """
    rows = any(value.shape[:1] == (None,) for value in join.inputs)
    return rows and join.output.dtype != "bool"


def _once(joins: Iterable[listening.JoinHeard]) -> Iterable[listening.JoinHeard]:
    """Leaves out the later rounds of a loop, none of which can be had."""
    seen = set()
    for join in joins:
        if all(value.fault for value in join.inputs):
            path = re.sub(r"@\d+(?=/|$)", "", join.path)
            if path in seen:
                continue
            seen.add(path)
        yield join


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
