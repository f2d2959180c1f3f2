"""Statistics are gathered during a save, stored and shown."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import layertap
from layertap.cli import main
from layertap.errors import AddressError
from tests.support.campaign import share

pytestmark = pytest.mark.one_backend

# Blocks of some hundred rows.
SMALL = 3 * 2**16


def model_with_aliases():
    """Two branches of one model, one of them joined again."""
    keras.utils.set_random_seed(4)
    x = keras.Input((8,), name="x")
    left = layers.Dense(16, activation="relu", name="left")(x)
    right = layers.Dense(32, name="right")(x)
    both = layers.Concatenate(name="fusion")([left, right])
    more = layers.Dense(4, name="more")(x)
    again = layers.Concatenate(name="outer")([both, more, left])
    return keras.Model(x, layers.Dense(1, name="head")(again), name="aliases")


def numbers(rows=1000):
    return np.random.default_rng(2).normal(size=(rows, 8)).astype("float32")


class StoppedError(Exception):
    """The data end here."""


def batches(x, stop=None):
    for row in range(0, len(x), 25):
        if row == stop:
            raise StoppedError
        yield x[row : row + 25]


def assert_right(saved):
    """The statistics of each value equal those of NumPy in 64 bits."""
    assert list(saved.statistics) == list(saved)
    for name, known in saved.statistics.items():
        array = saved[name][:].astype("float64")
        axes = tuple(axis for axis in range(array.ndim) if axis != known.axis)
        near = {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(known.mean, array.mean(axes), **near)
        np.testing.assert_allclose(known.variance, array.var(axes), **near)
        np.testing.assert_array_equal(known.minimum, array.min(axes))
        np.testing.assert_array_equal(known.maximum, array.max(axes))
        np.testing.assert_array_equal(known.zeros, (array == 0).sum(axes))
        assert not known.nan.any()
        assert not known.inf.any()
        assert known.count * known.units == array.size


def test_every_value_has_statistics(tmp_path):
    saved = layertap.save(
        model_with_aliases(), numbers(), tmp_path / "v.zarr", memory=SMALL
    )
    assert saved.reader.block_rows < 400
    assert set(saved.plan.recipes) == {"outer/in/0", "outer/in/2"}
    assert_right(saved)
    assert_right(layertap.open(tmp_path / "v.zarr"))
    assert saved.statistics["outer/in/0"].units == 48


@pytest.mark.parametrize("stops", share(3, [[25], [300], [600, 600], [325, 500, 975]]))
def test_a_resumed_save_has_the_same_statistics_to_the_bit(tmp_path, stops):
    model, x = model_with_aliases(), numbers()
    once = layertap.save(model, batches(x), tmp_path / "once", memory=SMALL)
    for stop in stops:
        with pytest.raises(StoppedError):
            layertap.save(model, batches(x, stop), tmp_path / "v", memory=SMALL)
        stopped = layertap.open(tmp_path / "v")
        assert (stopped.complete, dict(stopped.statistics)) == (False, {})
    saved = layertap.save(model, batches(x), tmp_path / "v", memory=SMALL)
    stored = saved.reader.attributes["statistics"]
    assert stored == once.reader.attributes["statistics"]
    # The complete store is recognised as one of the same run.
    assert layertap.save(model, batches(x), tmp_path / "v", memory=SMALL).complete


def test_units_lie_along_the_axis_of_the_join(tmp_path):
    x = keras.Input((6, 5), name="x")
    both = layers.Concatenate(axis=1, name="time")(
        [layers.ReLU(name="positive")(x), layers.Rescaling(2.0, name="twice")(x)]
    )
    added = layers.Add(name="sum")([both, both])
    model = keras.Model(x, added, name="axes")
    data = np.random.default_rng(0).normal(size=(70, 6, 5)).astype("float32")
    saved = layertap.save(
        *(model, data, tmp_path / "v.zarr"),
        joins=["concatenate", "add"],
        before="*",
        outputs="twice",
    )
    axes = {name: known.axis for name, known in saved.statistics.items()}
    assert axes["time/in/0"] == axes["time/in/1"] == 1
    assert saved.statistics["time/in/0"].units == 6
    # The output of `twice` is an alias of its branch, with the same statistics.
    assert axes["twice/out"] == 1
    assert_right(saved)


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_statistics_are_of_the_stored_dtype(tmp_path, dtype):
    x = keras.Input((3,), name="x")
    large = layers.Rescaling(1e30, name="large")(x)
    model = keras.Model(x, layers.Concatenate(name="fusion")([x, large]))
    data = np.array([[0, 1, np.nan], [2, 3, 4]], "float32")
    saved = layertap.save(model, data, tmp_path / "v.zarr", dtype=dtype)
    first, second = saved.statistics["fusion/in/0"], saved.statistics["fusion/in/1"]
    assert first.nan.tolist() == second.nan.tolist() == [0, 0, 1]
    assert first.maximum.tolist() == [2, 3, 4]
    infinite = {"float16": [1, 2, 1], "bfloat16": [0, 0, 0]}[dtype]
    assert second.inf.tolist() == infinite
    assert first.total.mean == 2
    assert first.total.zeros == second.total.zeros == 1


def test_padding_counts_as_zeros(tmp_path):
    x = keras.Input((None, 2), name="x")
    one = layers.Rescaling(1.0, name="one")(x)
    model = keras.Model(x, layers.Concatenate(name="fusion")([one, x]))
    data = [np.ones((4, length, 2), "float32") for length in (5, 2)]
    saved = layertap.save(model, iter(data), tmp_path / "v.zarr", pad=5)
    assert saved.statistics["fusion/in/0"].zeros.tolist() == [4 * 3] * 2


def test_statistics_are_shown(tmp_path):
    model, x = model_with_aliases(), numbers(100)
    left = model.get_layer("left")
    left.kernel.assign(np.zeros((8, 16)))
    left.bias.assign([0.25] + [0.0] * 15)
    path = str(tmp_path / "v.zarr")
    saved = layertap.save(model, x, path)
    shown = CliRunner().invoke(main, ["show", path]).output
    lines = [line.split() for line in shown.split("Statistics")[1].splitlines()]
    (line,) = [line for line in lines if line[:1] == ["fusion/in/0"]]
    assert line[1:] == [
        "left",
        *("0.01562", "0.06052", "0", "0.25", "93.8%", "0", "0", "16", "of", "16"),
    ]
    shown = json.loads(CliRunner().invoke(main, ["show", path, "--json"]).output)
    known = shown["statistics"]["fusion/in/0"]
    assert known["by unit"]["mean"] == [0.25] + [0.0] * 15
    assert known["total"]["dead"] == known["total"]["units"] == 16
    assert known["total"]["zeros"] == 1500
    assert set(shown["statistics"]) == set(saved)


def test_a_value_without_statistics_says_why(tmp_path):
    path = tmp_path / "v"
    with pytest.raises(StoppedError):
        layertap.save(model_with_aliases(), batches(numbers(), 300), path, memory=SMALL)
    with pytest.raises(AddressError, match=r"outer/in/0 .*: the save has not ended"):
        layertap.open(path).statistics["outer/in/0"]
    with pytest.raises(AddressError, match="No value 'gone'"):
        layertap.open(path).statistics["gone"]
    x = keras.Input((8,), name="x")
    joined = layers.Concatenate(name="fusion")([keras.ops.cast(x, "complex64")] * 2)
    saved = layertap.save(keras.Model(x, joined), numbers(), tmp_path / "waves")
    assert saved["fusion/in/0"].dtype.name == "complex64"
    with pytest.raises(AddressError, match="its numbers are complex"):
        saved.statistics["fusion/in/0"]


def test_an_incomplete_store_shows_no_statistics(tmp_path):
    with pytest.raises(StoppedError):
        layertap.save(model_with_aliases(), batches(numbers(), 50), tmp_path / "v")
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "v")]).output
    assert "Statistics" not in shown
    assert "not complete" in shown
