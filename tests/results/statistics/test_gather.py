"""Statistics, gathered in any pieces, equal those of NumPy in 64 bits."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.errors import OptionError
from layertap.results.statistics.gather import Gatherer, compute_statistics
from layertap.results.statistics.moments import Statistics
from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.statistics import PLAN, arrays, assert_right, values_of


@pytest.mark.campaign
@settings(max_examples=times(50, 200))
@given(arrays())
def test_arrays(drawn):
    array, axis = drawn
    assert_right(compute_statistics(array, axis), array, axis)


@pytest.mark.campaign
@settings(max_examples=times(20, 60))
@given(arrays(), st.lists(st.integers(0, 300), max_size=5))
def test_parts(drawn, cuts):
    """Merged statistics of parts equal those of the complete array."""
    array, axis = drawn
    statistics = Statistics.empty(axis, 1 if axis is None else array.shape[axis])
    for part in np.split(array, sorted(min(cut, len(array)) for cut in cuts)):
        statistics = statistics.merge(compute_statistics(part, axis))
    assert_right(statistics, array, axis)


LARGE = {
    "maps": ((40, 30, 30, 20), 3, "float32"),
    "maps, channels first": ((3, 20, 101, 97), 1, "float32"),
    "a row of large maps": ((1, 3, 700, 600), 1, "float32"),
    "few rows of small maps": ((5, 900, 7, 9), 1, "float16"),
    "wide rows": ((300, 5000), 1, "bfloat16"),
    "one number a row": ((200_000,), None, "float64"),
    "in the middle": ((50, 7, 6, 500), 2, "float32"),
}


@pytest.mark.parametrize(("shape", "axis", "dtype"), LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_arrays_of_many_pieces(shape, axis, dtype, mean):
    random = np.random.default_rng(3)
    array = (random.standard_normal(shape) + mean).astype(dtype)
    array[len(array) // 2] = 0
    assert_right(compute_statistics(array, axis), array, axis)
    array.reshape(-1)[array.size // 3] = np.nan
    assert_right(compute_statistics(array, axis), array, axis)


def test_a_million_numbers_far_from_zero_have_an_exact_variance():
    """Sums of squares in 32 bits would lose it."""
    random = np.random.default_rng(1)
    array = (1000 + 0.01 * random.standard_normal((2**17, 8))).astype("float32")
    exact = array.astype("float64")
    statistics = compute_statistics(array, 1)
    np.testing.assert_allclose(statistics.mean, exact.mean(0), rtol=1e-9)
    np.testing.assert_allclose(statistics.variance, exact.var(0), rtol=1e-4)


def test_bfloat16_of_all_numbers():
    every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    assert_right(compute_statistics(every, None), every, None)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert_right(compute_statistics(every, None), every, None)
    finite = every[np.isfinite(every)]
    assert_right(compute_statistics(finite, None), finite, None)


def specs(plan):
    return [ArraySpec(v.address, v.shape[1:], v.dtype) for v in plan.stored]


@pytest.mark.campaign
@settings(max_examples=times(8, 25))
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6))
def test_rows_are_observed_once_however_they_are_committed(tmp_path_factory, steps):
    """Appended, committed and resumed in any way: the statistics are equal."""
    plan, rows = PLAN, 40
    arrays = values_of(plan, rows)
    memory = 3 * 8 * sum(spec.row_bytes for spec in specs(plan))
    path = tmp_path_factory.mktemp("v") / "v"
    gatherer, at = Gatherer(plan), 0
    writer = Writer.create(path, specs(plan), {}, memory=memory, observer=gatherer.add)
    for count, again in steps:
        end = min(at + count, rows)
        writer.append({name: array[at:end] for name, array in arrays.items()})
        at = end
        writer.commit()
        if again:
            writer.close()
            gatherer = Gatherer(plan)
            reader = Reader(path)
            for row in range(0, at - at % 8, 8):
                gatherer.add(
                    row, {n: reader.array(n)[row : row + 8] for n in gatherer.names}
                )
            writer = Writer.resume(path, memory=memory, observer=gatherer.add)
    writer.append({name: array[at:] for name, array in arrays.items()})
    with writer:
        writer.finish(lambda: {"statistics": gatherer.to_json()})
    once = Gatherer(plan)
    for row in range(0, rows, 8):
        once.add(row, {name: array[row : row + 8] for name, array in arrays.items()})
    assert Reader(path).attributes["statistics"] == once.to_json()
    assert Reader(path).block_rows == 8


def test_rows_out_of_order_are_refused():
    gatherer = Gatherer(PLAN)
    rows = {"sum/in/0": np.ones((3, 4), "float32")}
    gatherer.add(0, rows)
    with pytest.raises(OptionError, match="Rows of sum/in/0 from 7 on"):
        gatherer.add(7, rows)
    with pytest.raises(OptionError, match="Expected row 3"):
        gatherer.add(0, rows)
