"""Selects the traced joins of a plan: those that join data."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from layertap.core import address
from layertap.core.plan import Ignored
from layertap.errors import (
    AddressError,
    LayertapError,
    ModelError,
    NoJoinsError,
    OptionError,
)
from layertap.planning.folded_rows import is_folded
from layertap.tracing.join_kinds import KINDS
from layertap.tracing.records import Trace, TracedJoin

Kind = Literal[
    "concatenate",
    "add",
    "subtract",
    "multiply",
    "average",
    "maximum",
    "minimum",
    "dot",
    "stack",
    "attention",
    "*",
    "all",
]


def inner_first(joins: Sequence[TracedJoin]) -> list[TracedJoin]:
    """Orders joins so that every join comes after the joins among its branches.

    Joins that were written with JAX itself are traced after all others.
    """
    makers = {join.output.token: join for join in joins}
    begun: set[str] = set()
    ordered: list[TracedJoin] = []

    def add(join: TracedJoin) -> None:
        if join.path in begun:
            return
        begun.add(join.path)
        for value in join.inputs:
            if value.token in makers:
                add(makers[value.token])
        ordered.append(join)

    for join in joins:
        add(join)
    return ordered


def requested_kinds(joins: Kind | Sequence[Kind]) -> tuple[list[str], bool]:
    """Returns the requested kinds of join, and whether to ignore no join of them."""
    requested = address.patterns(joins)
    everything = "all" in requested
    if everything or "*" in requested:
        return list(KINDS), everything
    for kind in requested:
        if kind not in KINDS:
            raise OptionError(
                f"There is no kind of join {kind!r}. "
                + address.suggest(kind, [*KINDS, "*", "all"], what="kind")
            )
    return requested, False


def select_joins(
    model: str, trace: Trace, kinds: list[str], patterns: list[str], everything: bool
) -> tuple[list[TracedJoin], list[Ignored]]:
    """Selects the joins of data that match patterns, and lists the ignored joins.

    A pattern that is the complete path of a join selects it, whatever it joins; so does
    `everything`.
    """
    if not patterns:
        return [], []
    candidates, ignored = [], []
    for join in _first_rounds(j for j in trace.joins.values() if j.kind in kinds):
        exempt = everything or any(address.names(p, join.path) for p in patterns)
        reason = "" if exempt else ignored_reason(join)
        if reason:
            ignored.append(Ignored(join.path, join.kind, reason))
        else:
            candidates.append(join)
    if not candidates:
        raise _no_joins(model, trace, kinds, ignored)
    try:
        paths = address.match(patterns, [join.path for join in candidates], what="join")
    except AddressError as error:
        raise AddressError(f"{error}{_advice(patterns, candidates, trace)}") from error
    return [join for join in candidates if join.path in set(paths)], ignored


def _advice(patterns: list[str], joins: list[TracedJoin], trace: Trace) -> str:
    """Returns what to pass in place of a name that does not belong to a join."""
    by_path = {join.path: join for join in joins}
    for pattern in patterns:
        path = address.path_of(pattern)
        if pattern not in by_path and path in by_path:
            return (
                f" {pattern!r} is a value. Pass the join, {path!r}, for its branches."
            )
        if path in trace.outputs and path not in by_path:
            fed = [
                join.path
                for join in joins
                if path in {value.made_by for value in join.inputs}
            ]
            joined = f"; or before={fed[0]!r}, the join that it feeds" if fed else ""
            return (
                f" {path!r} is not a join. Pass outputs={path!r} for what it returns"
                f"{joined}."
            )
    return ""


def ignored_reason(join: TracedJoin) -> str:
    """Returns why a join is ignored; empty if it joins data.

    User code requests a join of data, or a layer is that join. It has the rows of the
    data, and does not join indices: integers count as data only if an operation of the
    model joins them.
    """
    if join.origin:
        return f"it is done inside {join.origin}"
    by_row = [v.by_row is not False or is_folded(v) for v in join.inputs]
    if join.kind in ("concatenate", "stack"):
        if not any(by_row):
            return "no input has the rows of the data: a shape, indices, weights"
    elif not all(by_row):
        return "some inputs lack the rows of the data: a bias, weights, a number"
    if join.output.dtype == "string":
        return "it joins strings"
    if join.output.dtype == "bool":
        return "it joins booleans: a mask"
    if "int" in join.output.dtype and not join.whole:
        return "it joins integers, inside a call: indices"
    return ""


def _no_joins(
    model: str, trace: Trace, kinds: Sequence[str], ignored: Sequence[Ignored]
) -> LayertapError:
    if trace.stopped is not None:
        path, reason = trace.stopped
        return ModelError(f"{model!r} can't be traced to a join. {path}: {reason}")
    verb = "concatenates" if list(kinds) == ["concatenate"] else "joins"
    message = (
        f"{model!r} {verb} nothing, so there is nothing before a join. "
        'To save what layers return, pass `outputs=`, for example outputs="*".'
    )
    if ignored:
        message += " Ignored, since they join no data, unless named in `before=`: "
        message += "; ".join(f"{join.path}: {join.reason}" for join in ignored[:5])
    return NoJoinsError(message)


def _first_rounds(joins: Iterable[TracedJoin]) -> Iterator[TracedJoin]:
    """Leaves out later rounds of a loop, if none of their values is available."""
    seen = set()
    for join in joins:
        if all(value.fault for value in join.inputs):
            path = re.sub(r"@\d+(?=/|$)", "", join.path)
            if path in seen:
                continue
            seen.add(path)
        yield join
