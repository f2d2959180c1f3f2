"""Which units values have, and the statistics of values joined from others."""

import numpy as np

from layertap.core.plan import Output, Plan
from layertap.results.statistics.encoding import decode, encode
from layertap.results.statistics.feature_axes import derive_statistics, unit_axes
from layertap.results.statistics.gather import compute_statistics
from tests.support.statistics import PLAN, assert_right, value, values_of


def test_axes_of_units():
    assert unit_axes(PLAN) == {
        "maps/in/0": 1,
        "maps/in/1": 1,
        "last/in/1": 2,
        "sum/in/0": 1,
        "number/out": None,
        # Too many of them.
        "wide/out": None,
    }


def test_a_value_of_no_size_is_one_unit():
    plan = Plan("m", (), (value("nothing/out", (0,), made=Output),))
    assert unit_axes(plan) == {"nothing/out": None}
    empty = compute_statistics(np.zeros((3, 0), "float32"), None)
    assert decode(encode(empty), (3, 0)).total.numbers == 0


def test_values_that_are_joined_from_others():
    arrays = values_of(PLAN, 20)
    stored = {
        n: compute_statistics(arrays[n], axis) for n, axis in unit_axes(PLAN).items()
    }
    derived = derive_statistics(PLAN, stored)
    assert list(derived) == [name for name in PLAN.addresses if name != "waves/out"]
    joined = np.concatenate([arrays["maps/in/0"], arrays["maps/in/1"]], 1)
    assert_right(derived["last/in/0"], joined, 1)
    twice = np.concatenate([arrays["last/in/1"]] * 2, 2)
    assert_right(derived["both/in/0"], twice, 2)
    # The units of the two parts lie along different axes.
    mixed = np.concatenate([joined, arrays["last/in/1"]], 2)
    assert_right(derived["both/in/1"], mixed, None)
