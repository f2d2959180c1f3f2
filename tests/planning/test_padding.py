"""Batches of different sizes are padded to one; their true sizes are saved."""

import json
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import zarr
from keras import layers, ops

import layertap
from layertap.errors import AddressError, DataError, OptionError, OtherRunError
from layertap.planning.padding import Padding
from tests.support.campaign import spread
from tests.zoo import CASES, give_values

pytestmark = pytest.mark.every_backend

LENGTHS = (5, 9, 2, 7)
SMALL = 3 * 2**16


def by_name(name: str):
    return next(case for case in CASES if case.name == name)


class Batches(keras.utils.PyDataset):
    """Returns some arrays, as often as they are read."""

    def __init__(self, *batches: np.ndarray) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (self.batches[index],)

    def once(self, end: int | None = None) -> Iterator[np.ndarray]:
        """Yields them only once; raises at the end, if there is one."""
        yield from self.batches[:end]
        if end is not None:
            raise StoppedError


class StoppedError(Exception):
    """Raised by the data."""


def sequences(lengths=LENGTHS, width: int = 8, rows: int = 3) -> Batches:
    random = np.random.default_rng(0)
    return Batches(
        *(
            random.standard_normal((rows, length, width), dtype="float32")
            for length in lengths
        )
    )


def padded(arrays: list[np.ndarray]) -> np.ndarray:
    """Puts arrays into an array of zeros that is large enough for all."""
    most = np.max([array.shape[1:] for array in arrays], axis=0)
    padded_array = np.zeros((sum(map(len, arrays)), *most), arrays[0].dtype)
    row = 0
    for array in arrays:
        inside = tuple(slice(size) for size in array.shape[1:])
        padded_array[(slice(row, row + len(array)), *inside)] = array
        row += len(array)
    return padded_array


def truth_of(case, model, data: Batches) -> dict[str, np.ndarray]:
    batches = [case.truth(model, batch) for batch in data.batches]
    return {name: padded([batch[name] for batch in batches]) for name in batches[0]}


def of_rows(lengths, rows: int = 3) -> list[int]:
    return [length for length in lengths for _ in range(rows)]


@pytest.mark.parametrize("pad", [True, 9])
def test_values_are_padded_to_the_longest(tmp_path, pad):
    case = by_name("variable_length")
    model, data = case.build(), sequences()
    truth = truth_of(case, model, data)
    values = layertap.capture(model, data, pad=pad)
    saved = layertap.save(model, data, tmp_path / "v.zarr", pad=pad)
    assert list(saved) == list(values) == list(truth)
    for address, expected in truth.items():
        case.assert_close(values[address], expected)
        np.testing.assert_array_equal(saved[address][:], values[address])
        assert saved.lengths(address).tolist() == of_rows(LENGTHS)
        assert values.lengths(address).tolist() == of_rows(LENGTHS)
    array = zarr.open_group(tmp_path / "v.zarr", mode="r")["lengths"]
    assert array.attrs["layertap"]["columns"] == [
        ["fusion/in/0", 1],
        ["fusion/in/1", 1],
    ]
    np.testing.assert_array_equal(array[:], np.transpose([of_rows(LENGTHS)] * 2))
    batches = list(saved.batches(5))
    lengths = [n for batch in batches for n in batch.lengths("fusion/in/1")]
    assert lengths == of_rows(LENGTHS)
    report = layertap.verify(saved, model, data, rows=None)
    assert {check.address: check.verdict for check in report.checks} == dict.fromkeys(
        ("fusion/in/0", "fusion/in/1", "lengths", "fusion/out"), "identical"
    )
    again = layertap.open(tmp_path / "v.zarr")
    assert again.plan == saved.plan
    assert layertap.Plan.from_json(json.loads(json.dumps(again.plan.to_json()))) == (
        again.plan
    )
    assert "padded" in str(again.plan)


def test_data_that_come_once_are_padded_to_the_number_that_is_passed(tmp_path):
    case = by_name("variable_length")
    model, data = case.build(), sequences()
    saved = layertap.save(model, data.once(), tmp_path / "v.zarr", pad=12)
    for address, expected in truth_of(case, model, data).items():
        assert saved[address].shape[:2] == (12, 12)
        case.assert_close(saved[address][:, :9], expected)
        assert not saved[address][:, 9:].any()
    with pytest.raises(OptionError, match=r"only once.*pad=512"):
        layertap.save(model, data.once(), tmp_path / "w.zarr", pad=True)


def test_a_batch_that_is_too_long_loses_no_rows(tmp_path):
    case = by_name("variable_length")
    model, data = case.build(), sequences()
    words = r"fusion/in/0 .* row 3\. .*at most \(3, 6, 6\)\. .*\(3, 9, 6\)\. .*`pad="
    with pytest.raises(DataError, match=words):
        layertap.save(model, data, tmp_path / "v.zarr", pad=6)
    saved = layertap.open(tmp_path / "v.zarr")
    assert saved.rows == 3
    expected = case.truth(model, data.batches[0])["fusion/in/0"]
    case.assert_close(saved["fusion/in/0"][:, :5], expected)


def test_without_pad_the_error_says_what_to_do(tmp_path):
    model, data = by_name("variable_length").build(), sequences()
    for run in (
        lambda: layertap.capture(model, data),
        lambda: layertap.save(model, data, tmp_path / "v.zarr"),
        lambda: layertap.save(model, data, tmp_path / "w.zarr", pad=False),
    ):
        with pytest.raises(DataError, match=r"row 3.*one shape.*pad=True.*pad=512"):
            run()


@pytest.mark.parametrize("stop", spread([1, 3]))
def test_a_save_resumes_after_a_stop(tmp_path, stop):
    model = by_name("variable_length").build()
    data = sequences((5, 9, 2, 7, 1, 9, 4, 3), rows=40)
    with pytest.raises(StoppedError):
        layertap.save(model, data.once(stop), tmp_path / "v.zarr", pad=9, memory=SMALL)
    stopped = layertap.open(tmp_path / "v.zarr")
    assert stopped.lengths("fusion/in/0").tolist() == of_rows((5, 9, 2)[:stop], 40)
    for pad, named in ((None, "pad: the store has 2 values to 9"), (10, "to 10")):
        with pytest.raises(OtherRunError, match=named):
            layertap.save(model, data.once(), tmp_path / "v.zarr", pad=pad)
    saved = layertap.save(model, data.once(), tmp_path / "v.zarr", pad=9, memory=SMALL)
    complete = layertap.save(model, data, tmp_path / "w.zarr", pad=True, memory=SMALL)
    assert saved.identity == complete.identity
    for name in saved.reader.paths:
        one, other = saved.reader.array(name)[:], complete.reader.array(name)[:]
        assert one.tobytes() == other.tobytes()


def joins_of_joins() -> keras.Model:
    """One join along the open axis, one along another, and both joined again."""
    x = keras.Input((None, 4), name="x")
    left, right = layers.Dense(3, name="left")(x), layers.Dense(3, name="right")(x)
    long = layers.Concatenate(axis=1, name="long")([left, right])
    wide = layers.Concatenate(axis=2, name="wide")([left, right])
    longer = layers.Concatenate(axis=1, name="longer")([long, left])
    wider = layers.Concatenate(axis=2, name="wider")([wide, x])
    pooled = [layers.GlobalMaxPooling1D()(branch) for branch in (longer, wider)]
    last = layers.Concatenate(name="last")(pooled)
    model = keras.Model(x, last)
    give_values(model)
    return model


@pytest.mark.parametrize("dtype", spread([None, "float16"]))
def test_joins_along_the_open_axis_are_stored_others_rebuilt(tmp_path, dtype):
    model, data = joins_of_joins(), sequences(width=4)
    saved = layertap.save(model, data, tmp_path / "v.zarr", pad=True, dtype=dtype)
    recipes = saved.plan.recipes
    assert "longer/in/0" not in recipes
    assert len(recipes["wider/in/0"].addresses) == 2
    parts = {name: [] for name in ("longer/in/0", "wider/in/0", "last/in/0")}
    for batch in data.batches:
        left, right = (
            batch @ kernel + bias
            for kernel, bias in (
                model.get_layer(n).get_weights() for n in ("left", "right")
            )
        )
        parts["longer/in/0"].append(np.concatenate([left, right], axis=1))
        parts["wider/in/0"].append(np.concatenate([left, right], axis=2))
        parts["last/in/0"].append(np.concatenate([left, right], axis=1).max(axis=1))
    tolerance = 2e-5 if dtype is None else 2e-3
    for address, arrays in parts.items():
        np.testing.assert_allclose(
            saved[address][:], padded(arrays), rtol=tolerance, atol=tolerance
        )
    assert saved.lengths("longer/in/0").tolist() == of_rows([2 * n for n in LENGTHS])
    assert saved.lengths("wider/in/0").tolist() == of_rows(LENGTHS)
    assert saved.lengths("longer/in/1").tolist() == of_rows(LENGTHS)
    with pytest.raises(OptionError, match="last/in/0 was not padded"):
        saved.lengths("last/in/0")
    with pytest.raises(AddressError, match="lost/in/0"):
        saved.lengths("lost/in/0")
    report = layertap.verify(saved, model, data, rows=None)
    assert {check.verdict for check in report.checks} == {"identical"}
    joins = {f"{name}/out" for name in ("long", "wide", "longer", "wider", "last")}
    assert joins <= {check.address for check in report.checks}


def test_images_of_several_sizes_have_two_lengths():
    x = keras.Input((None, None, 2), name="x")
    half = layers.AveragePooling2D(2, name="half")(x)
    twice = layers.Rescaling(2.0, name="twice")(half)
    model = keras.Model(x, layers.Concatenate(name="fusion")([half, twice]))
    random = np.random.default_rng(0)
    sizes = [(8, 4), (6, 10), (4, 4)]
    data = Batches(*(random.random((2, *size, 2), dtype="float32") for size in sizes))
    halves = [
        batch.reshape(2, height // 2, 2, width // 2, 2, 2).mean(axis=(2, 4))
        for batch, (height, width) in zip(data.batches, sizes, strict=True)
    ]
    for pad, shape in ((True, (6, 4, 5, 2)), (12, (6, 6, 6, 2))):
        values = layertap.capture(model, data, pad=pad)
        assert values["fusion/in/1"].shape == shape
        np.testing.assert_allclose(
            values["fusion/in/1"][:, :4, :5], 2 * padded(halves), rtol=1e-5
        )
        assert values.lengths("fusion/in/1").tolist() == [
            [height // 2, width // 2] for height, width in sizes for _ in range(2)
        ]


class Subclassed(keras.Model):
    """Does not declare its inputs."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.left = layers.Dense(3, name="left")

    def call(self, x):
        return ops.concatenate([self.left(x), x], axis=-1)


def test_without_declared_sizes_the_data_show_which_are_open():
    model, data = Subclassed(), sequences()
    values = layertap.capture(model, data, pad=True)
    np.testing.assert_array_equal(values["concatenate/in/1"], padded(data.batches))
    assert values.lengths("concatenate/in/0").tolist() == of_rows(LENGTHS)
    with pytest.raises(OptionError, match=r"does not declare.*pad=True"):
        layertap.capture(model, data, pad=9)


def test_values_are_padded_after_a_reduction():
    case = by_name("variable_length")
    model, data = case.build(), sequences()
    truth = [case.truth(model, batch)["fusion/in/1"] for batch in data.batches]
    flat = layertap.capture(model, data, pad=True, reduce="flatten")
    assert flat.lengths("fusion/in/1").tolist() == of_rows([3 * n for n in LENGTHS])
    expected = padded([array.reshape(3, -1) for array in truth])
    case.assert_close(flat["fusion/in/1"], expected)
    for pad in (None, True):
        highest = layertap.capture(model, data, pad=pad, reduce="max")
        expected = np.concatenate([array.max(axis=1) for array in truth])
        case.assert_close(highest["fusion/in/1"], expected)
        assert not highest.plan.padded


def test_arrays_have_one_size_and_are_not_padded():
    case = by_name("variable_length")
    model, (x, *_) = case.build(), sequences().batches
    values = layertap.capture(model, x, pad=True)
    assert values.lengths("fusion/in/0").tolist() == [5, 5, 5]
    case.assert_close(values["fusion/in/0"], case.truth(model, x)["fusion/in/0"])


def test_wrong_lengths_are_found(tmp_path):
    model, data = by_name("variable_length").build(), sequences()
    saved = layertap.save(model, data, tmp_path / "v.zarr", pad=True)
    shorter = Batches(*(batch[:, :-1] for batch in data.batches))
    report = layertap.verify(saved, model, shorter)
    verdicts = {check.address: check.verdict for check in report.checks}
    assert verdicts["lengths"] == "different"
    assert not report


@pytest.mark.parametrize("pad", [0, -1, 2.5, "longest"])
def test_invalid_options_are_refused(pad):
    model, data = by_name("variable_length").build(), sequences()
    with pytest.raises(OptionError, match="`pad`"):
        layertap.capture(model, data, pad=pad)


def test_a_size_that_no_input_determines_is_the_number_that_is_passed():
    shape = (None, None, 3)
    assert Padding(7, {}).fill("fusion/in/0", shape) == (None, 7, 3)
    with pytest.raises(DataError, match=r"fusion/in/0.*pad=512"):
        Padding(True, {}).fill("fusion/in/0", shape)
