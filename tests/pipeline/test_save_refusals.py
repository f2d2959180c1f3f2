"""A save that is refused, or that ends in an error, loses nothing."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import layertap
from layertap.errors import (
    AddressError,
    DataError,
    DataTypeError,
    NoJoinsError,
    NotAStoreError,
    OptionError,
    OtherRunError,
)
from tests.support.campaign import everywhere
from tests.support.two_branches import DataBrokeError, numbers, two_branches

pytestmark = pytest.mark.every_backend


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (np.zeros((0, 8), "float32"), DataError, "empty|no rows"),
        (np.zeros((5, 7), "float32"), DataError, "x.*8"),
        (np.array([["a"] * 8]), DataTypeError, "x"),
        ({"y": np.zeros((5, 8), "float32")}, DataError, "x"),
        ((np.zeros((5, 8), "float32"), np.array([["a"]] * 5)), DataTypeError, "ids"),
    ],
)
def test_bad_data_are_refused_and_leave_nothing_behind(tmp_path, data, error, words):
    with pytest.raises(error, match=words):
        layertap.save(two_branches(), data, tmp_path / "v.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_bad_ids_are_refused(tmp_path):
    with pytest.raises(DataError, match="ids"):
        layertap.save(two_branches(), numbers(5), tmp_path / "v.zarr", ids=range(4))
    stream = iter([numbers(5)])
    with pytest.raises(DataError, match="4 ids"):
        layertap.save(two_branches(), stream, tmp_path / "v.zarr", ids=range(4))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        (None, {}, r"The path of the store .* Received None"),
        (3, {}, r"The path of the store .* Received 3"),
        ("a\0b", {}, r"The path of the store .* Received 'a"),
        ("v.zarr", {"memory": "1GB"}, r"`memory` is invalid.* Received '1GB'"),
        ("v.zarr", {"memory": 1.5}, r"`memory` is invalid.* Received 1\.5"),
    ],
)
def test_bad_arguments_are_refused_in_words(
    tmp_path, monkeypatch, path, options, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=words):
        layertap.save(two_branches(), numbers(5), path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_what_is_no_address_is_refused_in_words(tmp_path):
    model = two_branches()
    saved = layertap.save(model, numbers(5), tmp_path / "v.zarr")
    values = layertap.capture(model, numbers(5))
    for mapping in (saved, values):
        for name in (slice(3), 0, None):
            with pytest.raises(AddressError, match=r"An address is a string such as"):
                mapping[name]
    with pytest.raises(AddressError, match=r"No value 'gone'"):
        saved.statistics["gone"]


@pytest.mark.one_backend
def test_the_error_for_a_model_without_joins_says_what_to_pass(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, name="only")])
    with pytest.raises(NoJoinsError, match="outputs="):
        layertap.save(model, numbers(5), tmp_path / "v.zarr")
    saved = layertap.save(model, numbers(5), tmp_path / "v.zarr", outputs="only")
    np.testing.assert_allclose(
        saved["only/out"][:], model.predict(numbers(5), verbose=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.one_backend
def test_a_path_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    for name in ("file", "folder"):
        for overwrite in (False, True):
            with pytest.raises(NotAStoreError, match=name):
                layertap.save(
                    two_branches(), numbers(5), tmp_path / name, overwrite=overwrite
                )
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / "mine").read_text() == "mine"


@pytest.mark.one_backend
def test_progress_shows_rows_and_bytes_or_is_quiet(tmp_path, capsys):
    layertap.save(two_branches(), numbers(500), tmp_path / "quiet.zarr")
    assert capsys.readouterr() == ("", "")
    layertap.save(two_branches(), numbers(500), tmp_path / "v.zarr", progress=True)
    out, shown = capsys.readouterr()
    assert out == ""
    assert "500 of 500 rows" in shown
    assert "written" in shown


def test_an_error_in_the_models_own_pass_loses_nothing(tmp_path):
    model, x = two_branches(), numbers(100)

    def narrow():
        yield x[:40]
        yield x[40:, :7]

    with pytest.raises(DataError, match="row 40"):
        layertap.save(model, narrow(), tmp_path / "v.zarr")
    assert layertap.open(tmp_path / "v.zarr").rows == 40
    layertap.save(model, iter([x[:40], x[40:]]), tmp_path / "v.zarr")
    assert layertap.verify(layertap.open(tmp_path / "v.zarr"), model, x)


class Stops(keras.layers.Layer):
    """Raises a KeyboardInterrupt in the middle of a pass, as Ctrl-C does."""

    stops = False

    def call(self, x):
        if self.stops:
            raise KeyboardInterrupt
        return x


def test_ctrl_c_in_the_middle_of_a_pass_leaves_the_model_intact(tmp_path):
    layer = Stops()
    x = keras.Input((3,))
    joined = keras.layers.Concatenate()([layer(keras.layers.Dense(2)(x)), x])
    model = keras.Model(x, keras.layers.Dense(1)(joined))
    data = np.ones((64, 3), "float32")
    plan, expected = layertap.plan(model), model.predict(data, verbose=0)
    layer.stops = True
    with pytest.raises(KeyboardInterrupt):
        layertap.save(model, data, tmp_path / "v.zarr")
    layer.stops = False
    np.testing.assert_array_equal(model.predict(data, verbose=0), expected)
    assert layertap.plan(model) == plan
    model.compile("sgd", "mse")
    model.fit(data, np.ones((64, 1)), verbose=0)
    assert layertap.save(model, data, tmp_path / "v.zarr").complete


@pytest.mark.one_backend
def test_shorter_data_do_not_complete_a_store(tmp_path):
    model, x = two_branches(), numbers(500)

    def broken():
        yield from (x[:250], x[250:])
        raise DataBrokeError

    with pytest.raises(DataBrokeError):
        layertap.save(model, broken(), tmp_path / "v.zarr")
    with pytest.raises(OtherRunError, match=r"has 500, the data end .* 250"):
        layertap.save(model, iter([x[:250]]), tmp_path / "v.zarr")
    assert not layertap.open(tmp_path / "v.zarr").complete


ANOTHER_BACKEND = """
import sys, keras, numpy as np, layertap
x = keras.Input((4,))
branches = [keras.layers.Dense(3)(x), x]
model = keras.Model(x, keras.layers.Concatenate()(branches))
saved = layertap.save(model, np.ones((70, 4)), sys.argv[1])
assert layertap.verify(saved, model, np.ones((70, 4)))
layertap.split(model, copy=True)
print("tensorflow" in sys.modules)
"""


@everywhere
def test_other_backends_do_not_import_tensorflow(tmp_path):
    """Keras looks for TensorFlow's types in a configuration, by importing it."""
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_BACKEND, tmp_path / "v.zarr"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(keras.backend.backend() == "tensorflow")]


@keras.saving.register_keras_serializable("layertap_tests")
class Reusing(keras.layers.Layer):
    """Returns its output in the same memory each time, if the backend supports that."""

    def call(self, x):
        if keras.backend.backend() != "torch" or isinstance(x, keras.KerasTensor):
            return x * 2.0
        if getattr(self, "memory", None) is None or len(self.memory) != len(x):
            self.memory = x * 2.0
        return self.memory.copy_(x * 2.0) if x.device.type != "meta" else x * 2.0


def test_a_model_that_reuses_the_memory_of_its_values(tmp_path):
    x = keras.Input((4,), name="x")
    both = keras.layers.Concatenate(name="fusion")([Reusing()(x), x])
    model = keras.Model(x, both)
    data = np.arange(400, dtype="float32").reshape(100, 4)
    captured = layertap.capture(model, data, batch_size=10)["fusion/in/0"]
    assert np.array_equal(captured, 2 * data)
    saved = layertap.save(model, data, tmp_path / "v.zarr", batch_size=10)
    assert np.array_equal(saved["fusion/in/0"][:], 2 * data)


@pytest.mark.one_backend
@pytest.mark.parametrize("stop", [1, 2, 17, 18, 40])
def test_small_batches_that_end_in_an_error_are_all_saved(tmp_path, stop):
    """Many small batches are begun at once."""
    x = np.arange(200, dtype="float32").reshape(50, 4)
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Concatenate(name="fusion")([inputs, inputs * 2.0])
    )

    def batches():
        for row in range(50):
            if row == stop:
                raise OSError("unplugged")
            yield x[row : row + 1]

    with pytest.raises(OSError, match="unplugged"):
        layertap.save(model, batches(), tmp_path / "v.zarr")
    saved = layertap.open(tmp_path / "v.zarr")
    assert saved.rows == stop
    assert np.array_equal(saved["fusion/in/1"][:], 2 * x[:stop])
