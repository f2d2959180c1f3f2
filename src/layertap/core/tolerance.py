"""Grades of equality: whether two values are the same, or two runs, and where not.

NumPy alone: nothing here needs a model, or Keras.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.core import text

Verdict = Literal["identical", "within rounding", "different"]

# Of a dtype's own precision, as a share of the largest value: sums of some thousand
# products in another order stay below it.
ROUNDING = 256


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], whose: str = "this run"
) -> list[str]:
    """Says in which points two identities differ, both sides.

    Args:
        theirs: The identity in a store.
        ours: The identity of the run that is to be it.
        whose: Whose the second is.
    """
    return [
        text.printable(
            f"{name}: the store has {theirs.get(name)}, {whose} {ours.get(name)}"
        )
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]


def compare(
    saved: NDArray[Any], fresh: NDArray[Any], computed: str | None = None
) -> Verdict:
    """Grades how much two arrays are the same. NaN equals NaN.

    Args:
        saved: What was saved.
        fresh: The same, recomputed.
        computed: The dtype that both were computed in, if it is not theirs.

    Returns:
        `"identical"` bit for bit; `"within rounding"` if all differences are less than
        256 times the dtype's precision, relative to the largest value of the row;
        else `"different"`. The dtype is the one of the computation; where the result
        was narrowed, once the precision of what is left is added.
    """
    if saved.shape != fresh.shape or saved.dtype != fresh.dtype:
        return "different"
    if saved.tobytes() == fresh.tobytes():
        return "identical"
    if saved.dtype.kind in "biuSU":
        return "different"
    share = ROUNDING * precision(saved.dtype.name)
    if computed is not None:
        share = ROUNDING * precision(computed) + precision(saved.dtype.name)
    close = within(distance(saved, fresh), fresh, share)
    return "within rounding" if close else "different"


def within(apart: NDArray[np.float64], fresh: NDArray[Any], share: float) -> bool:
    """Whether all differences are small beside the largest number of their row.

    Args:
        apart: The differences, as of `distance`.
        fresh: The numbers of one side.
        share: How large a difference may be, as a share of that number.
    """
    if not np.isfinite(apart).all():
        return False
    size = np.abs(wide(fresh))
    scale = np.where(np.isfinite(size), size, 0)
    axes = tuple(range(1, scale.ndim))
    return bool((apart <= share * scale.max(axis=axes, keepdims=True)).all())


def describe_difference(
    saved: NDArray[Any], fresh: NDArray[Any], row: int, whose: str = "this run"
) -> str:
    """Says where two arrays of the same rows differ most, both sides.

    Args:
        saved: What was saved.
        fresh: What there is now.
        row: The number of their first row.
        whose: Whose the second is.
    """
    texts_both = saved.dtype.kind == fresh.dtype.kind == "U"
    if saved.shape != fresh.shape or (saved.dtype != fresh.dtype and not texts_both):
        return (
            f"rows from {row} on are {saved.dtype} of shape {saved.shape} in the "
            f"store, and {fresh.dtype} of shape {fresh.shape} in {whose}"
        )
    exact = saved.dtype.kind in "biuU"
    apart = saved != fresh if exact else distance(saved, fresh)
    at = np.unravel_index(np.argmax(apart), apart.shape)
    number = f"row {row + int(at[0])}"
    if at[1:]:
        number += f" at {', '.join(str(int(n)) for n in at[1:])}"
    return f"{number} is {saved[at]} in the store, and {fresh[at]} in {whose}"


def distance(saved: NDArray[Any], fresh: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the absolute difference, number by number; 0 where both are equal.

    Two NaN are equal, and so are two infinities of one sign; NaN or an infinity
    against anything else is infinitely far.
    """
    a, b = wide(saved), wide(fresh)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart = np.where(np.isnan(apart), np.inf, apart)
    result: NDArray[np.float64] = np.where(same, 0.0, apart).astype(np.float64)
    return result


def wide(array: NDArray[Any]) -> NDArray[Any]:
    """Returns numbers in 64 bits, or complex ones in 128."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float64)


def precision(dtype: str) -> float:
    """Returns the step from 1 to the next number of a floating or complex dtype."""
    if dtype == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)
