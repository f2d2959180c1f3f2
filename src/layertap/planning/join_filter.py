"""Which of the joins that were heard a plan takes: those of data."""

import re
from collections.abc import Iterable, Sequence

from layertap.core import address
from layertap.core.plan import Ignored
from layertap.errors import LayertapError, ModelError, NoJoinsError, OptionError
from layertap.tracing.join_kinds import KINDS
from layertap.tracing.records import Trace, TracedJoin


def inner_first(joins: Sequence[TracedJoin]) -> list[TracedJoin]:
    """Returns joins in their order, but none before one that is a branch of it.

    Those that were written with JAX itself are heard when all others have been.
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


def kinds_of(joins: str | Sequence[str]) -> tuple[list[str], bool]:
    """Returns the kinds of join that are asked for, and whether nothing is left out."""
    asked = address.patterns(joins)
    everything = "all" in asked
    if everything or "*" in asked:
        return list(KINDS), everything
    for kind in asked:
        if kind not in KINDS:
            raise OptionError(
                f"There is no kind of join {kind!r}. "
                + address.suggest(kind, [*KINDS, "*", "all"], what="kind")
            )
    return asked, False


def of_data(
    model: str,
    heard: Trace,
    kinds: Sequence[str],
    named: Sequence[str],
    everything: bool,
) -> tuple[list[TracedJoin], list[Ignored]]:
    """Divides the joins that were heard into those of data and others.

    Args:
        model: The model's name.
        heard: What was heard.
        kinds: The kinds of join that are asked for.
        named: Paths of joins to be taken whatever they are of.
        everything: Whether all are to be taken.

    Returns:
        The joins of data, and those that are left out, each with the reason.

    Raises:
        NoJoinsError: If none is of data.
        ModelError: If the model can't be heard to a join.
    """
    chosen, ignored = [], []
    for join in _once(join for join in heard.joins.values() if join.kind in kinds):
        reason = "" if everything or join.path in named else not_of_data(join)
        if reason:
            ignored.append(Ignored(join.path, join.kind, reason))
        else:
            chosen.append(join)
    if not chosen:
        raise _no_joins(model, heard, kinds, ignored)
    return chosen, ignored


def not_of_data(join: TracedJoin) -> str:
    """Says why a join is not one of data; nothing if it is.

    It is one if the user's code asked for it, or a layer that is there to join; if it
    has the rows of the data; and if it joins numbers that are no indices. Whole
    numbers are taken for data only where an operation of the model joins them.
    """
    if join.origin:
        return f"it is done inside {join.origin}"
    by_row = [value.by_row for value in join.inputs]
    if join.kind in ("concatenate", "stack"):
        if not any(by_row):
            return "nothing in it has the rows of the data: a shape, indices, weights"
    elif not all(by_row):
        return "not all of it has the rows of the data: a bias, weights, a number"
    if join.output.dtype == "bool":
        return "it is of booleans: a mask"
    if "int" in join.output.dtype and not join.whole:
        return "it is of whole numbers, inside a call: indices"
    return ""


def _no_joins(
    model: str,
    heard: Trace,
    kinds: Sequence[str],
    ignored: Sequence[Ignored],
) -> LayertapError:
    if heard.stopped is not None:
        path, reason = heard.stopped
        return ModelError(f"{model!r} can't be heard to a join. {path}: {reason}")
    what = "concatenates" if list(kinds) == ["concatenate"] else "joins"
    message = (
        f"{model!r} {what} nothing, so there is nothing before a join. "
        'To save what layers return, ask for `outputs=`, for instance outputs="*".'
    )
    if ignored:
        message += " Left out as not of data, and taken if named in `before=`: "
        message += "; ".join(f"{each.path}: {each.reason}" for each in ignored[:5])
    return NoJoinsError(message)


def undecidable_reason(reason: str) -> str:
    """Returns why nothing can be had after Python decided by values."""
    return (
        f"here Python decides by values, which a plan does not have ({reason}). What "
        "comes after can't be had; `keras.ops.where` or `keras.ops.cond` would let "
        "the model be heard to its end"
    )


def _once(joins: Iterable[TracedJoin]) -> Iterable[TracedJoin]:
    """Leaves out the later rounds of a loop, none of which can be had."""
    seen = set()
    for join in joins:
        if all(value.fault for value in join.inputs):
            path = re.sub(r"@\d+(?=/|$)", "", join.path)
            if path in seen:
                continue
            seen.add(path)
        yield join
