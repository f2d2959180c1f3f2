"""Only the same run resumes a store or gets it back; differences are named."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import OtherRunError
from layertap.store.format.root import read_root
from layertap.store.storage.files import LocalStorage
from tests.support.campaign import spread
from tests.support.resumes import (
    EVERY,
    ROWS,
    SMALL,
    STOP,
    StoppedError,
    begin,
    files,
    numbers,
    other_weights,
    stream,
    two_branches,
)

pytestmark = pytest.mark.one_backend


def changed(array, row):
    array = array.copy()
    array[row] += 1
    return array


def other_call():
    model = two_branches()
    model.get_layer("scaled").factor = 2.5
    return model


HEX = "[0-9a-f]{16}"


# Changes of the model, the data or options; and the message, both sides.
CHANGES = {
    "weights": (
        {"model": other_weights},
        f"weights: the store has {HEX}, this run {HEX}",
    ),
    "configuration": (
        {"model": lambda: two_branches(width=17)},
        f"configuration: the store has {HEX}, this run {HEX}",
    ),
    "what a layer has learned": (
        {"model": lambda: two_branches(mean=0.5)},
        f"weights: the store has {HEX}, this run {HEX}",
    ),
    "code": (
        {"model": other_call},
        r"fusion/in/0 of row \d+ at \d+ is -?[\d.]+ in the store, and -?[\d.]+ in this",
    ),
    "plan": ({"before": None, "outputs": "left"}, "plan: the store has .*, this run"),
    "dtype": ({"dtype": "float16"}, "dtype: the store has None, this run float16"),
    "reduction": ({"reduce": "avg"}, "reduce: the store has None, this run avg"),
    "ids passed": ({"ids": None}, "ids: the store has number, this run None"),
    "one id": (
        {"ids": changed(EVERY, 333)},
        "ids of row 333 is 333 in the store, and 334 in this run",
    ),
    "one label": (
        {"labels": changed(EVERY, 333)},
        "labels of row 333 is 333 in the store, and 334 in this run",
    ),
    "a row in the middle": (
        {"x": lambda x: changed(x, 333)},
        "data: the inputs of row 333 are not those in the store",
    ),
    "the last row saved": (
        {"x": lambda x: changed(x, STOP - 1)},
        f"data: the inputs of row {STOP - 1} are not those in the store",
    ),
    "preprocessing": (
        {"x": lambda x: np.where(np.arange(ROWS)[:, None] < 300, x, x * 1.001)},
        "data: the inputs of row 300 are not those in the store",
    ),
    "augmentation": (
        {"x": lambda x: x + np.random.default_rng().normal(size=8).astype("float32")},
        "data: the inputs of row 0 are not those in the store",
    ),
}


@pytest.fixture(scope="module", params=[False, True], ids=["stopped", "complete"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("identity") / "v.zarr"
    begin(path, complete=request.param)
    return path


@pytest.mark.every_backend
@pytest.mark.parametrize("change", spread(CHANGES))
def test_another_run_is_refused_and_the_difference_is_named(store, change):
    options, words = CHANGES[change]
    options = {"ids": EVERY, "memory": SMALL} | options
    model = options.pop("model", two_branches)()
    x = options.pop("x", lambda x: x)(numbers())
    data = stream(x.astype("float32"), options.pop("labels", EVERY))
    before = files(store)
    with pytest.raises(OtherRunError) as raised:
        layertap.save(model, data, store, **options)
    assert re.search(words, str(raised.value)), raised.value
    assert files(store) == before


@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["keras", keras.backend.backend()])
def test_other_versions_are_refused(store, name):
    root = read_root(LocalStorage(store))
    manifest = (store / "zarr.json").read_bytes()
    root.attributes["identity"][name] = "1.0"
    (store / "zarr.json").write_bytes(root.contents)
    with pytest.raises(OtherRunError, match=rf"{name}: the store has 1\.0, this run "):
        layertap.save(two_branches(), stream(numbers()), store, ids=EVERY)
    (store / "zarr.json").write_bytes(manifest)


@pytest.mark.every_backend
def test_the_same_run_resumes_or_returns_the_complete_store(store):
    saved = layertap.save(
        two_branches(), stream(numbers()), store, ids=EVERY, memory=SMALL
    )
    assert (saved.rows, saved.complete) == (ROWS, True)
    assert layertap.verify(saved)


@pytest.mark.parametrize("complete", [False, True])
def test_arrays_are_compared_as_streams_are(tmp_path, complete):
    model, x = two_branches(), numbers()
    path = tmp_path / "v.zarr"
    if complete:
        layertap.save(model, x, path, memory=SMALL)
    else:
        # As long as in the interrupted run, and then as before.
        failing = iter(range(30))

        def stop(rows, written):
            if next(failing, None) is None:
                raise StoppedError

        with pytest.raises(StoppedError):
            layertap.save(model, x, path, memory=SMALL, progress=stop)
    with pytest.raises(OtherRunError, match="the inputs of row 333 are not those in"):
        layertap.save(model, changed(x, 333), path, memory=SMALL, batch_size=8)
    replaced = layertap.save(model, changed(x, 333), path, memory=SMALL, overwrite=True)
    assert layertap.verify(replaced, model, changed(x, 333), rows=None)


def test_fewer_data_than_a_complete_store_has(tmp_path):
    path = tmp_path / "v.zarr"
    layertap.save(two_branches(), stream(numbers()), path)
    before = files(path)
    for data in (
        itertools.islice(stream(numbers()), 49),
        (numbers()[:980], EVERY[:980]),
    ):
        with pytest.raises(OtherRunError, match="rows: the store has 1000, the data"):
            layertap.save(two_branches(), data, path)
    assert files(path) == before


def test_data_that_can_be_read_only_once_replace_no_rows(tmp_path):
    path = tmp_path / "v.zarr"
    begin(path, complete=True)
    before = files(path)
    data = stream(changed(numbers(), 333))
    with pytest.raises(OtherRunError, match="delete this one"):
        layertap.save(two_branches(), data, path, ids=EVERY, overwrite=True)
    assert files(path) == before


def test_moving_a_store_or_saving_from_elsewhere_is_no_difference(
    tmp_path, monkeypatch
):
    begin(tmp_path / "v.zarr", complete=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "v.zarr").rename(tmp_path / "elsewhere/w.zarr")
    monkeypatch.chdir(tmp_path / "elsewhere")
    saved = layertap.save(
        two_branches(), stream(numbers()), "w.zarr", ids=EVERY, memory=SMALL
    )
    assert (saved.rows, saved.complete) == (ROWS, True)
    complete = layertap.save(two_branches(), stream(numbers()), tmp_path / "whole.zarr")
    for address in complete:
        assert saved[address][:].tobytes() == complete[address][:].tobytes()


class Speaks(layers.Layer):
    """A layer of the user with names that Keras uses, too."""

    bin_boundaries = np.arange(3)

    def get_vocabulary(self, language):
        return [language]

    def call(self, x):
        return x


def test_layers_of_the_users_own_may_have_any_names(tmp_path):
    x = keras.Input((8,), name="x")
    both = layers.Concatenate(name="fusion")([Speaks(name="speaks")(x), x])
    model = keras.Model(x, both)
    assert layertap.save(model, numbers(), tmp_path / "v.zarr").complete


class Secretive(layers.Layer):
    """A layer whose configuration can't be read."""

    def get_config(self):
        raise RuntimeError("no configuration")

    def call(self, x):
        return x


class Written(keras.Model):
    """A model whose configuration has none of its layers."""

    def __init__(self, activation):
        super().__init__()
        self.left = layers.Dense(3, name="left")
        self.fusion = layers.Concatenate(name="fusion")
        self.head = layers.Dense(1, activation)

    def call(self, x):
        return self.head(self.fusion([self.left(x), x]))


def functional(activation):
    x = keras.Input((8,), name="x")
    left = Secretive(name="secretive")(layers.Dense(3, name="left")(x))
    joined = layers.Concatenate(name="fusion")([left, x])
    return keras.Model(x, layers.Dense(1, activation, name="head")(joined))


@pytest.mark.parametrize("make", [functional, Written])
def test_each_layer_counts_where_the_model_has_no_configuration(tmp_path, make):
    def save(activation):
        keras.utils.set_random_seed(1)
        return layertap.save(make(activation), numbers(), tmp_path / "v.zarr")

    # No value comes after the head, so that none of them differs.
    assert save("relu").complete
    assert save("relu").complete
    with pytest.raises(OtherRunError, match=f"configuration: the store has {HEX}"):
        save("tanh")
