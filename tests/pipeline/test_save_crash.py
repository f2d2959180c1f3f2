"""Kills a few saves; `make crash` kills some hundred, on every backend."""

import pytest

from tests.crash import campaign
from tests.support.campaign import share, times

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def server():
    with campaign.Server() as server:
        yield server


# Arrays without compression, a compressed stream, and arrays that grow.
CASES = share(2, [campaign.CASES[3], campaign.CASES[0], campaign.CASES[4]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_saves_leave_right_rows_and_end_right(server, case, tmp_path):
    kills = times(3, 6)
    outcomes = campaign.run(server, case, kills, seed=0, folder=tmp_path)
    assert outcomes[campaign.STORIES] >= 1
    assert outcomes.total() == kills + outcomes[campaign.STORIES]
