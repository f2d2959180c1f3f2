"""Statistics as NumPy computes them, arrays that have them, and a plan of joins."""

import numpy as np
from hypothesis import strategies as st

from layertap.core.plan import Branch, Join, Output, Plan, Recipe
from layertap.results.statistics.moments import Statistics

DTYPES = [
    *("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64"),
    "bool",
]
BROKEN = (np.nan, np.inf, -np.inf)


def by_hand(array, axis):
    """The statistics of each unit, in 64 bits, unit by unit."""
    with np.errstate(invalid="ignore"):  # NaN of a kind that signals
        wide = np.asarray(array, np.float64)
    wide = wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0)
    for unit in wide.reshape(len(wide), -1):
        finite = unit[np.isfinite(unit)]
        some = len(finite) > 0
        yield {
            "mean": finite.mean() if some else np.nan,
            "variance": ((finite - finite.mean()) ** 2).mean() if some else np.nan,
            "minimum": finite.min() if some else np.nan,
            "maximum": finite.max() if some else np.nan,
            "zeros": (unit == 0).sum(),
            "nan": np.isnan(unit).sum(),
            "inf": np.isinf(unit).sum(),
            "size": np.abs(finite).max() if some else 0,
        }


def assert_right(statistics: Statistics, array, axis):
    expected = list(by_hand(array, axis))
    assert (statistics.axis, statistics.units) == (axis, len(expected))
    assert statistics.count * statistics.units == array.size
    for name in ("minimum", "maximum", "zeros", "nan", "inf"):
        np.testing.assert_array_equal(
            getattr(statistics, name), [unit[name] for unit in expected], name
        )
    for unit, mean, variance in zip(
        expected, statistics.mean, statistics.variance, strict=True
    ):
        # Rounding is that of 32 bits, of the sizes of the numbers.
        bound = 1e-5 * unit["size"]
        np.testing.assert_allclose(mean, unit["mean"], rtol=0, atol=bound + 1e-300)
        atol = min(bound**2, unit["variance"]) + 1e-300
        np.testing.assert_allclose(variance, unit["variance"], rtol=1e-4, atol=atol)


@st.composite
def arrays(draw, ranks=(1, 4)):
    """An array that a model may return, and the axis of its units."""
    rank = draw(st.integers(*ranks))
    shape = [
        draw(st.sampled_from([0, 1, 2, 63, 64, 300])),
        *(draw(st.sampled_from([1, 2, 5, 9, 40])) for _ in range(rank - 1)),
    ]
    while np.prod(shape) > 200_000:
        shape[0] //= 2
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    mean = draw(st.sampled_from([0, 0, 1, -40, 100]))
    spread = draw(st.sampled_from([0, 1e-3, 1, 10]))
    numbers = random.standard_normal(shape) * spread + mean
    if draw(st.booleans()):
        numbers = np.maximum(numbers, 0)
    if dtype.kind in "fV":
        numbers *= draw(st.sampled_from([1, 1, 1e-30, 1e25]))
        some = draw(st.sampled_from([0, 0, 1, 3]))
        numbers.reshape(-1)[::7][:some] = BROKEN[: len(numbers.reshape(-1)[::7][:some])]
    else:
        bounds = (0, 1) if dtype.kind == "b" else (-100 * (dtype.kind == "i"), 100)
        numbers = np.clip(numbers, *bounds)
    with np.errstate(all="ignore"):
        array = numbers.astype(dtype)
    axis = draw(st.sampled_from([None, *range(1, rank)]))
    return array, axis


def value(address, shape, dtype="float32", made=Branch):
    return made(address, "x", (None, *shape), dtype)


PLAN = Plan(
    "m",
    (
        Join(
            *("maps", "concatenate", 1, (None, 8, 6), "float32"),
            (value("maps/in/0", (5, 6)), value("maps/in/1", (3, 6))),
        ),
        Join(
            *("last", "concatenate", 2, (None, 8, 12), "float32"),
            (value("last/in/0", (8, 6)), value("last/in/1", (8, 6))),
        ),
        Join(
            *("both", "concatenate", 2, (None, 8, 24), "float32"),
            (value("both/in/0", (8, 12)), value("both/in/1", (8, 12))),
        ),
        Join("sum", "add", None, (None, 4), "float32", (value("sum/in/0", (4,)),)),
    ),
    (
        value("number/out", (), made=Output),
        value("waves/out", (2,), "complex64", made=Output),
        value("wide/out", (2**15 + 1,), made=Output),
    ),
    recipes={
        "last/in/0": Recipe(("maps/in/0", "maps/in/1"), 1),
        "both/in/0": Recipe(("last/in/1", "last/in/1"), 2),
        "both/in/1": Recipe(("last/in/0", "last/in/1"), 2),
    },
)


def values_of(plan, rows):
    random = np.random.default_rng(8)
    arrays = {
        value.address: random.normal(size=(rows, *value.shape[1:])).astype(value.dtype)
        for value in plan.stored
    }
    arrays["last/in/1"][3, 2, 1] = np.inf
    return arrays
