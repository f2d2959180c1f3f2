"""Saves that are killed, a few; `make crash` kills some hundred."""

import pytest

from crash import campaign


@pytest.fixture(scope="module")
def server():
    with campaign.Server() as server:
        yield server


@pytest.mark.parametrize("case", campaign.CASES, ids=str)
def test_killed_saves_leave_right_rows_and_end_right(server, case, tmp_path):
    outcomes = campaign.run(server, case, 4, seed=0, folder=tmp_path)
    assert outcomes[campaign.STORIES] >= 1
    assert outcomes.total() == 4 + outcomes[campaign.STORIES]
