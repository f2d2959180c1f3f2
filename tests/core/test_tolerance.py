"""Rounding ends, and a difference begins, at a number of last bits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.core import tolerance


@settings(max_examples=200)
@given(
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    steps=st.integers(0, 4000),
    at=st.integers(0, 19),
)
def test_where_rounding_ends(dtype, steps, at):
    """A difference is graded by the last bits of the largest number."""
    row = np.linspace(-1, 1, 20).astype(dtype)[None]
    other = row.copy()
    other[0, at] += np.asarray(steps * np.finfo(dtype).eps, dtype)
    apart = abs(other[0, at].astype("float64") - row[0, at].astype("float64"))
    if apart == 0:
        expected = "identical"
    elif apart <= 256 * float(np.finfo(dtype).eps) * abs(other).max():
        expected = "within rounding"
    else:
        expected = "different"
    assert tolerance.compare(row, other) == expected
