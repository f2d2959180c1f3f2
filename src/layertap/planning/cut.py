"""Cuts a model before the joins of a plan."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from layertap.core.plan import Join, Refused
from layertap.errors import ModelError
from layertap.tracing.graphs.cut import Cut, cut


def cut_before(
    model: keras.Model, specs: Any, joins: Sequence[Join], refused: Iterable[Refused]
) -> Cut:
    """Cuts a model before joins. None of their branches may be refused."""
    for join in joins:
        if not join.whole:
            reasons = "; ".join(f"{r.address}: {r.reason}" for r in refused)
            raise ModelError(
                f"{join.path!r} has branches that can't be captured. {reasons}"
            )
    branches = {
        join.path: {branch.address: branch.dtype for branch in join.branches}
        for join in joins
    }
    try:
        return cut(model, specs, branches, {join.kind for join in joins})
    except ModelError as error:
        raise ModelError(
            f"{model.name!r} can't be cut before {', '.join(map(repr, branches))}. "
            f"{error} Instead, save the branches (layertap.save needs no graph), and "
            "write the part after the join as a model of its own."
        ) from error
