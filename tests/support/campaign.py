"""Campaigns: tests that repeat one behaviour in many ways.

`make test` runs a share of each. `make test-campaigns` runs all of it.
"""

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


def everywhere(test: Any) -> Any:
    """Marks a test that one backend runs for all, and each backend in a campaign."""
    if not WHOLE:
        return pytest.mark.processes(test)
    return pytest.mark.campaign(pytest.mark.every_backend(test))


def times(few: int, many: int) -> int:
    """Returns how often to repeat something, in a share and in all of a campaign."""
    return many if WHOLE else few
