"""Statistics, gathered in any pieces, equal those of NumPy in 64 bits."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap import store as stores
from layertap.core.plan import Branch, Join, Output, Plan, Recipe
from layertap.core.tables import plain
from layertap.errors import OptionError, StoreError
from layertap.results.statistics.encoding import decode, encode
from layertap.results.statistics.feature_axes import derive_statistics, unit_axes
from layertap.results.statistics.gather import Gatherer, compute_statistics
from layertap.results.statistics.moments import Statistics
from layertap.results.statistics.table import table
from layertap.store import ArraySpec, Reader, Writer

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


@settings(deadline=None, max_examples=200)
@given(arrays())
def test_arrays(drawn):
    array, axis = drawn
    assert_right(compute_statistics(array, axis), array, axis)


@settings(deadline=None, max_examples=60)
@given(arrays(), st.lists(st.integers(0, 300), max_size=5))
def test_parts(drawn, cuts):
    """Merged statistics of parts equal those of the complete array."""
    array, axis = drawn
    statistics = Statistics.empty(axis, 1 if axis is None else array.shape[axis])
    for part in np.split(array, sorted(min(cut, len(array)) for cut in cuts)):
        statistics = statistics.merge(compute_statistics(part, axis))
    assert_right(statistics, array, axis)


@settings(deadline=None, max_examples=60)
@given(arrays())
def test_encoded_as_texts(drawn):
    array, axis = drawn
    statistics = compute_statistics(array, axis)
    texts = json.loads(json.dumps(encode(statistics), allow_nan=False))
    again = decode(texts, array.shape)
    assert_right(again, array, axis)
    json.dumps(again.to_json(), allow_nan=False)


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
    shown = plain(table({"fusion/in/0": statistics}))
    assert "2 of 4" in shown
    assert "25.0%" in shown


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


def specs(plan):
    return [ArraySpec(v.address, v.shape[1:], v.dtype) for v in plan.stored]


@settings(deadline=None, max_examples=25)
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


def test_finishing_again_observes_no_row_twice(tmp_path):
    seen = []

    def observer(row, arrays):
        seen.append((row, arrays["x"].tolist()))

    array = ArraySpec("x", (), "int64")
    options = {"memory": 3 * 8 * 8, "observer": observer}
    with Writer.create(tmp_path / "v", [array], {}, **options) as writer:
        writer.append({"x": np.arange(19)})
        with pytest.raises(OptionError, match="have to be JSON"):
            writer.finish(lambda: {"no JSON": object()})
        writer.finish(lambda: {"blocks": len(seen)})
    assert seen == [(row, list(range(row, min(row + 8, 19)))) for row in (0, 8, 16)]
    assert Reader(tmp_path / "v").attributes == {"blocks": 3}


class BrokenError(Exception):
    """Raised by the observer."""


@pytest.mark.parametrize("fails_at", [0, 8, 16])
def test_a_failing_observer_loses_no_rows(tmp_path, fails_at):
    seen = []

    def observer(row, arrays):
        if row == fails_at:
            raise BrokenError("no memory to count in")
        seen.append((row, arrays["x"].tolist()))

    array = ArraySpec("x", (), "float32")
    rows = np.arange(20, dtype="float32")
    options = {"memory": 3 * 8 * 4, "observer": observer}
    writer = Writer.create(tmp_path / "v", [array], {}, **options)

    def save():
        with writer:
            writer.append({"x": rows})
            writer.finish()

    with pytest.raises(StoreError, match="no memory to count in"):
        save()
    safe = {0: 8, 8: 16, 16: 20}[fails_at]
    assert Reader(tmp_path / "v").rows == safe
    assert not Reader(tmp_path / "v").complete
    assert [row for row, _ in seen] == list(range(0, fails_at, 8))
    with Writer.resume(tmp_path / "v", memory=96) as second:
        assert second.rows == safe
        second.append({"x": rows[safe:]})
        second.finish()
    assert Reader(tmp_path / "v").array("x")[:].tolist() == rows.tolist()
    stores.remove(tmp_path / "v")


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


def test_bfloat16_of_all_numbers():
    every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    assert_right(compute_statistics(every, None), every, None)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert_right(compute_statistics(every, None), every, None)
    finite = every[np.isfinite(every)]
    assert_right(compute_statistics(finite, None), finite, None)
