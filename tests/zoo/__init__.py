"""Models with joins, each with branch values that were computed without layertap.

A case builds one model and declares what flows into each of its joins. The values are
computed in NumPy, from the model's weights, by `run`: no graph, no tracing and no Keras
computation takes part. `tests/zoo/test_zoo.py` shows that they are right: joined, and
sent through the rest of the model by hand, they give the model's output.

Sizes differ within a model wherever it allows that, so that swapped branches are
detected.
"""

from typing import Any

import keras
import pytest

from tests.support import campaign
from tests.zoo import (
    article,
    functional,
    masks,
    nested,
    precision,
    recurrent,
    several_joins,
    subclassed,
)
from tests.zoo.case import (
    Case,
    Inputs,
    Joined,
    by_address,
    cases_of,
    give_values,
)
from tests.zoo.truth import Array, find, run

KERAS = tuple(map(int, keras.__version__.split(".")[:2]))

ALL = cases_of(
    article, functional, several_joins, nested, subclassed, recurrent, precision, masks
)
CASES = [case for case in ALL if case.since <= KERAS]

# With this release of Keras, these models' own `predict` fails.
LATER = [case for case in ALL if case.since > KERAS]


def one_in(step: int, cases: list[Any]) -> list[Any]:
    """Leaves one case in `step` to every backend, and the others to one for all.

    A campaign runs all cases on every backend.
    """
    if campaign.WHOLE:
        return [pytest.param(case, marks=pytest.mark.campaign) for case in cases]
    return [
        case if n % step == 0 else pytest.param(case, marks=pytest.mark.one_backend)
        for n, case in enumerate(cases)
    ]


__all__ = [
    "CASES",
    "LATER",
    "Array",
    "Case",
    "Inputs",
    "Joined",
    "by_address",
    "find",
    "give_values",
    "one_in",
    "run",
]
