"""Campaigns: tests that repeat one behaviour in many ways.

`make test` runs a share of each. `make test-campaigns` runs all of it.
"""

import os
from collections.abc import Iterable
from typing import Any

import pytest

# Set by the option `--campaigns`, before tests are imported.
WHOLE = False


def share(step: int, cases: Iterable[Any]) -> list[Any]:
    """Returns one case in `step`, or all cases, as those of a campaign."""
    if not WHOLE:
        return list(cases)[::step]
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.campaign
        )
        for case in cases
    ]


def spread(cases: Iterable[Any]) -> list[Any]:
    """Returns all cases on PyTorch, which compiles nothing, and half on others.

    As those of a campaign, all cases on each backend.
    """
    if WHOLE:
        return share(1, cases)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    first, step = {"torch": (0, 1), "jax": (0, 2)}.get(backend, (1, 2))
    return list(cases)[first::step]


def everywhere(test: Any) -> Any:
    """Marks a test that one backend runs for all, and each backend in a campaign."""
    if not WHOLE:
        return pytest.mark.processes(test)
    return pytest.mark.campaign(pytest.mark.every_backend(test))


def times(few: int, many: int) -> int:
    """Returns how often to repeat something, in a share and in all of a campaign."""
    return many if WHOLE else few
