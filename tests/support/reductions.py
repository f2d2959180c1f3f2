"""Models and values that are reduced or narrowed."""

import keras
import ml_dtypes
import numpy as np

from tests.zoo import CASES

DTYPES = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype("float64").reshape(len(array), -1)


def places(array: np.ndarray) -> np.ndarray:
    """Returns an array with one axis of all places, between rows and channels."""
    if array.ndim < 3:
        return array[:, None].astype("float64")
    return array.reshape(len(array), -1, array.shape[-1]).astype("float64")


REDUCED = {
    "avg": lambda array: places(array).mean(axis=1),
    "max": lambda array: places(array).max(axis=1),
    "flatten": wide,
}


def by_name(name: str):
    return next(case for case in CASES if case.name == name)


# Narrow numbers.


def passing_through() -> keras.Model:
    """Returns a model whose branches are its inputs, to plant any number."""
    x = keras.Input((4,), name="x")
    counts = keras.Input((3,), name="counts", dtype="int32")
    plain = keras.layers.Activation("linear", name="plain")(x)
    signed = keras.layers.Rescaling(-1.0, name="signed")(x)
    first = keras.layers.Concatenate(name="first")([plain, signed])
    second = keras.layers.Concatenate(name="second")([first, plain])
    whole = keras.layers.Concatenate(name="whole", dtype="int32")([counts, counts])
    return keras.Model([x, counts], [second, whole], name="passing_through")


def planted(rows: int) -> list[np.ndarray]:
    """Returns small numbers, and numbers next to the ends of float16 and bfloat16."""
    random = np.random.default_rng(3)
    x = random.standard_normal((rows, 4), dtype="float32")
    ends = [65504, 65519.996, 65520, -65520, 65536, 3.4e38, 3.395e38, 3.3961776e38]
    ends += [-1e30, np.inf, -np.inf, np.nan]
    where = random.permutation(x.size)[: x.size // 3]
    x.reshape(-1)[where] = np.resize(np.array(ends, "float32"), len(where))
    return [x, random.integers(0, 2**30, (rows, 3)).astype("int32")]


def narrow(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[dtype])


def overflows(array: np.ndarray, dtype: str) -> np.ndarray:
    """Counts the overflows of each row with NumPy."""
    became = ~np.isfinite(narrow(array, dtype).astype("float32"))
    return (became & np.isfinite(array)).sum(axis=1)
