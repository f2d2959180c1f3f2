"""Histograms have the numbers of each bin, however their rows are divided."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.results.statistics import histogram as module
from layertap.results.statistics.encoding import (
    decode,
    decode_exact,
    encode,
)
from layertap.results.statistics.gather import Gatherer
from layertap.results.statistics.histogram import MOST_BINS, Histogram, merged
from tests.support.campaign import times
from tests.support.export_stores import plan_of

FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.lists(st.floats(), min_size=1, max_size=60)


def assert_counts(found, array):
    """Each bin has the numbers that lie in it, found by comparing with its ends."""
    wide = np.asarray(array, np.float64).ravel()
    wide = wide[np.isfinite(wide)]
    edges = found.edges
    assert len(found.counts) == len(edges) - 1 <= MOST_BINS
    inside = (edges[:-1, None] <= wide) & (wide < edges[1:, None])
    assert found.counts.tolist() == inside.sum(axis=1).tolist()
    assert found.counts.sum() == len(wide)
    # None is empty at an end, so that no finer bins would reach as far.
    assert found.counts[0]
    assert found.counts[-1]


@given(ANY)
def test_each_bin_has_its_numbers(numbers):
    found = Histogram.of(np.array(numbers))
    if np.isfinite(numbers).any():
        with np.errstate(over="ignore"):
            assert_counts(found, numbers)
    else:
        assert found is None


def test_nan_that_signal_are_left_out():
    signalling = np.array([0x7F800001, 0x3F800000], np.uint32).view("float32")
    assert_counts(Histogram.of(signalling), [1.0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint64", "bool"])
def test_all_dtypes_are_counted(dtype):
    array = (np.random.default_rng(0).normal(size=(40, 3)) * 5).astype(dtype)
    assert_counts(Histogram.of(array), array)


@pytest.mark.campaign
@given(st.lists(FINITE, min_size=2, max_size=60), st.data())
@settings(max_examples=times(60, 1000))
def test_parts_add_up_to_the_whole(numbers, data):
    array = np.array(numbers)
    cut = data.draw(st.integers(0, len(numbers)))
    parts = [Histogram.of(array[:cut]), Histogram.of(array[cut:])]
    for one, other in (parts, parts[::-1]):
        both, whole = merged(one, other), Histogram.of(array)
        assert (both.exponent, both.first) == (whole.exponent, whole.first)
        assert both.counts.tolist() == whole.counts.tolist()


def test_the_bins_are_as_narrow_as_they_can_be():
    found = Histogram.of(np.arange(128))
    assert found.edges.tolist() == [*range(129)]
    assert len(Histogram.of(np.arange(129)).counts) == 65
    assert len(Histogram.of(np.full(9, 0.3)).counts) == 1


def test_many_numbers_are_sampled(monkeypatch):
    monkeypatch.setattr(module, "_MOST_COUNTED", 1000)
    array = np.random.default_rng(0).normal(size=(3000, 2))
    found = Histogram.of(array)
    assert found.sampled
    expected = Histogram.of(array[::6])
    assert found.counts.tolist() == (6 * expected.counts).tolist()
    # Of few long rows, some numbers of each.
    assert Histogram.of(array.reshape(2, 3000)).counts.sum() == 6000
    assert found.merge(expected).sampled


def test_blocks_of_rows_and_joined_values_add_up(tmp_path):
    plan = plan_of(["float32"])
    arrays = {
        value.address: np.random.default_rng(n)
        .normal(size=(40, *value.shape[1:]))
        .astype(value.dtype)
        for n, value in enumerate(plan.stored)
    }
    whole, parts, others = Gatherer(plan), Gatherer(plan), Gatherer(plan)
    whole.add(0, arrays)
    for start in (0, 7, 30):
        end = {0: 7, 7: 30, 30: 40}[start]
        some = {name: array[start:end] for name, array in arrays.items()}
        parts.add(start, some)
        summary = json.loads(json.dumps(others.summarize(some)))
        others.add_summary(end - start, summary)
    for name, texts in whole.to_json().items():
        expected = texts["histogram"]
        assert parts.to_json()[name]["histogram"] == expected
        assert others.to_json()[name]["histogram"] == expected
        shape = (40, *arrays[name].shape[1:])
        assert_counts(decode(texts, shape).histogram, arrays[name])


def test_statistics_are_the_same_to_the_bit_in_a_record():
    gatherer = Gatherer(plan_of(["float32"]))
    arrays = {
        value.address: np.random.default_rng(n).normal(size=(9, *value.shape[1:]))
        for n, value in enumerate(plan_of(["float32"]).stored)
    }
    for summary in gatherer.summarize(arrays).values():
        assert encode(decode_exact(summary), exact=True) == summary


HOSTILE = [
    [0, 0, 0],
    "text",
    [0.5, 0, 0, "1"],
    [True, 0, 0, "1"],
    [0, 0, 0, "1 -1"],
    [0, 0, 0, " ".join(["1"] * 129)],
    [2000, 0, 0, "1"],
    [0, 2**60, 0, "1"],
    [0, 0, 0, ["1"]],
    [0, 0, 0, "9" * 400],
    [0, 0, 0, ""],
    5,
    [0, 0, 0, 5],
    [0, 0, 0, "0"],
    [0, 0, 0, "1 1"],
    [0, 0, 1, " ".join(["9223372036854775807"] * 128)],
    [1024, 2**53, 1, "1"],
]


@pytest.mark.parametrize("part", HOSTILE, ids=repr)
def test_what_no_save_writes_is_refused(part):
    gatherer = Gatherer(plan_of(["float32"]))
    stored = plan_of(["float32"]).stored
    gatherer.add(0, {v.address: np.ones((2, *v.shape[1:]), v.dtype) for v in stored})
    name = stored[0].address
    texts = gatherer.to_json()[name] | {"histogram": part}
    with pytest.raises((ValueError, TypeError, OverflowError)):
        decode(texts, (2, *stored[0].shape[1:]))
