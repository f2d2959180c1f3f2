"""Properties of statistics, and their table."""

import math

import numpy as np

from layertap.core.tables import plain
from layertap.results.statistics.gather import compute_statistics
from layertap.results.statistics.moments import shares
from layertap.results.statistics.table import table


def test_dead_and_broken_units():
    array = np.zeros((1000, 4), "float32")
    array[:, 1] = 0.1
    array[:, 2] = 0.1
    array[5, 2] = np.nan
    array[:, 3] = np.arange(1000)
    statistics = compute_statistics(array, 1)
    assert statistics.dead.tolist() == [True, True, False, False]
    assert statistics.variance[:3].tolist() == [0, 0, 0]
    assert statistics.mean[1] == np.float64(np.float32(0.1))
    total = statistics.total
    assert (total.numbers, total.nan, total.units, total.dead) == (4000, 1, 4, 2)
    assert total.zeros == 1001
    assert total.share_of_zeros == 1001 / 4000
    finite = np.delete(array.astype("float64").reshape(-1), 22)
    np.testing.assert_allclose(total.mean, finite.mean())
    np.testing.assert_allclose(total.deviation, finite.std())
    shown = plain(table({"fusion/in/0": statistics}, {"fusion/in/0": "left"}))
    assert "left" in shown
    assert "2 of 4" in shown
    assert "25.0%" in shown


def test_shares():
    assert shares([1, 3]) == [0.25, 0.75]
    assert all(map(math.isnan, shares([0, 0])))
