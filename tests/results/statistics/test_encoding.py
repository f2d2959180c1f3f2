"""Encoded statistics decode to the same, and damaged ones are detected."""

import json

import numpy as np
import pytest
from hypothesis import given, settings

from layertap.results.statistics.encoding import decode, decode_exact, encode
from layertap.results.statistics.gather import compute_statistics
from layertap.results.statistics.moments import COUNTS, MOMENTS, Statistics
from tests.support.statistics import arrays, assert_right


@settings(max_examples=60)
@given(arrays())
def test_encoded_as_texts(drawn):
    array, axis = drawn
    statistics = compute_statistics(array, axis)
    texts = json.loads(json.dumps(encode(statistics), allow_nan=False))
    again = decode(texts, array.shape)
    assert_right(again, array, axis)
    json.dumps(again.to_json(), allow_nan=False)


TEXTS = encode(compute_statistics(np.array([[1, 2], [np.nan, 2]], "float32"), 1))
DAMAGE = {
    "axis": [0, 2, -1, True, "1", 1.0, 10**400],
    "mean": ["1", "1 2 3", "a b", 3, None, "1  2", "0" * 100 + " 1"],
    "variance": ["-1 0", "0"],
    "minimum": ["nan nan", "1 3", "inf inf", "-inf 2"],
    "maximum": ["0 0", "nan 2"],
    "zeros": ["0 -1", "0 3", "1.5 0", f"{2**63 - 1} 0", f"{2**70} 0"],
    "nan": ["2 1", "3 0"],
    "inf": ["1 1", "-1 0"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, part) for name in DAMAGE for part in DAMAGE[name]]
)
def test_damaged_texts(name, text):
    assert decode(TEXTS, (2, 2)).mean.tolist() == [1, 2]
    with pytest.raises((ValueError, TypeError, OverflowError)):
        decode(TEXTS | {name: text}, (2, 2))


def two_units(**parts):
    """Statistics of two units of 100 numbers, with some parts of their own."""
    floats = dict.fromkeys(MOMENTS, (0.0, 1.0)) | {"variance": [0.25, 0.1]}
    defaults = floats | dict.fromkeys(COUNTS, (0, 0))
    lists = {name: parts.get(name, part) for name, part in defaults.items()}
    arrays = [np.array(lists[name], np.float64) for name in MOMENTS]
    arrays += [np.array(lists[name], np.int64) for name in COUNTS]
    return Statistics(1, parts.get("count", 100), *arrays)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"mean": [0.1, 1 / 3], "variance": [1e-300, 1e300]},
        {"minimum": [-0.0, 5e-324], "maximum": [0.0, 1.7e308]},
        {"minimum": [np.float32(0.1), -1e30], "maximum": [np.float32(0.3), 3e38]},
        {"zeros": [0, 255], "nan": [256, 0], "inf": [0, 65_536], "count": 2**20},
        {"zeros": [2**32, 2**40], "count": 2**41},
        {
            **dict.fromkeys(MOMENTS, (np.nan, np.nan)),
            "nan": [100, 99],
            "inf": [0, 1],
        },
    ],
)
def test_exact_statistics_are_equal_to_the_bit(parts):
    known = two_units(**parts)
    decoded = decode_exact(encode(known, exact=True))
    assert (decoded.axis, decoded.count) == (known.axis, known.count)
    for name in (*MOMENTS, *COUNTS):
        before, after = getattr(known, name), getattr(decoded, name)
        assert (before.dtype, before.tobytes()) == (after.dtype, after.tobytes()), name


def test_exact_statistics_of_a_usual_block_take_few_bytes():
    """Mean and variance in 64 bits, extremes in 32, zeros in 16, in base64."""
    rng, units = np.random.default_rng(0), 3000
    moments = [*rng.normal(size=(2, units)) ** 2, np.zeros(units), rng.random(units)]
    moments[3] = moments[3].astype(np.float32).astype(np.float64)
    counts = [rng.integers(0, 8192, units), *np.zeros((2, units), np.int64)]
    encoded = encode(Statistics(1, 8192, *moments, *counts), exact=True)
    text = sum(len(part[1]) for part in encoded.values() if isinstance(part, list))
    assert text == units * (8 + 8 + 4 + 4 + 2) * 4 // 3


@pytest.mark.parametrize(
    "change",
    [
        {"mean": ["<f4", "AAAA"]},
        {"mean": ["<O8", "AAAAAAAAAAA="]},
        {"mean": "AAAAAAAA"},
        {"zeros": ["<u1", "yMg="]},
        {"zeros": ["<u1", "AQ=="]},
        {"minimum": ["<f8", ""]},
    ],
)
def test_damaged_exact_statistics(change):
    with pytest.raises((KeyError, ValueError)):
        decode_exact(encode(two_units(), exact=True) | change)
