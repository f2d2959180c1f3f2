"""Grades of equality: whether two values or two runs are equal, and where not."""

from collections.abc import Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from layertap.core import text

Verdict = Literal["identical", "within rounding", "different"]

# Tolerance in units of a dtype's own precision, relative to the largest value: sums of
# some thousand products in another order stay below it.
ROUNDING = 256


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Lists the points in which a store's identity differs from that of this run.

    With other batches, values are the same within rounding: they are compared.
    """
    return [
        text.printable(
            f"{name}: the store has {stored.get(name)}, this run {current.get(name)}"
        )
        for name in dict.fromkeys([*stored, *current])
        if name != "batch size" and stored.get(name) != current.get(name)
    ]


def compare(
    saved: NDArray[Any],
    fresh: NDArray[Any],
    computed: str | None = None,
    least: float = 0.0,
) -> Verdict:
    """Grades the equality of saved and recomputed rows. NaN equals NaN.

    `"identical"` is bit for bit. `"within rounding"`: all differences are less than 256
    times the precision of the dtype, relative to the largest value of the row. That
    dtype is `computed`, the one of the computation. If the result was narrowed, the
    precision of its own dtype is added once. `least` is a share that is always allowed.
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
    close = within(distance(saved, fresh), fresh, max(share, least))
    return "within rounding" if close else "different"


def within(distances: NDArray[np.float64], fresh: NDArray[Any], share: float) -> bool:
    """Checks that no distance is above a share of the largest number of its row."""
    if not np.isfinite(distances).all():
        return False
    size = np.abs(wide(fresh))
    scale = np.where(np.isfinite(size), size, 0)
    axes = tuple(range(1, scale.ndim))
    return bool((distances <= share * scale.max(axis=axes, keepdims=True)).all())


def describe_difference(saved: NDArray[Any], fresh: NDArray[Any], row: int) -> str:
    """Describes where two arrays of the same rows, from `row` on, differ most."""
    both_texts = saved.dtype.kind == fresh.dtype.kind == "U"
    if saved.shape != fresh.shape or (saved.dtype != fresh.dtype and not both_texts):
        return (
            f"rows from {row} on are {saved.dtype} of shape {saved.shape} in the "
            f"store, and {fresh.dtype} of shape {fresh.shape} in this run"
        )
    exact = saved.dtype.kind in "biuU"
    distances = saved != fresh if exact else distance(saved, fresh)
    at = np.unravel_index(np.argmax(distances), distances.shape)
    place = f"row {row + int(at[0])}"
    if at[1:]:
        place += f" at {', '.join(str(int(n)) for n in at[1:])}"
    return f"{place} is {saved[at]} in the store, and {fresh[at]} in this run"


def distance(saved: NDArray[Any], fresh: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the absolute differences, number by number; 0 where both are equal.

    Two NaN are equal, and so are two infinities of one sign. NaN or an infinity is
    infinitely far from anything else.
    """
    a, b = wide(saved), wide(fresh)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        distances = np.abs(a - b)
    distances = np.where(np.isnan(distances), np.inf, distances)
    return np.where(same, 0.0, distances).astype(np.float64)


def wide(array: NDArray[Any]) -> NDArray[Any]:
    """Returns numbers in 64 bits, or complex ones in 128."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def precision(dtype: str) -> float:
    """Returns the step from 1 to the next number of a floating or complex dtype."""
    return float(ml_dtypes.finfo(dtype).eps)
