"""Only the same run resumes a store or gets it back; differences are named."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import LayertapError, OtherRunError, StoreError
from layertap.pipeline.tap import Tap
from layertap.store.format.root import read_root
from layertap.store.storage.files import LocalStorage

pytestmark = pytest.mark.one_backend

# Blocks of some three hundred rows.
SMALL = 3 * 2**16
ROWS, BATCH, STOP = 1000, 20, 620
EVERY = np.arange(ROWS)


class Scaled(layers.Layer):
    """Multiplies by a number that only its code contains."""

    factor = 2.0

    def call(self, x):
        return x * self.factor


def two_branches(vocabulary=(1, 2, 3), mean=0.0, width=16):
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    seen = layers.Normalization(name="seen")
    seen.adapt(np.stack([np.full(8, mean - 1), np.full(8, mean + 1)]))
    scaled = Scaled(name="scaled")(layers.Dense(width, name="left")(seen(x)))
    right = layers.Dense(32, name="right")(x)
    joined = layers.Concatenate(name="fusion")([scaled, right])
    return keras.Model(x, layers.Dense(1, name="head")(joined), name="two")


def numbers():
    return np.random.default_rng(0).normal(size=(ROWS, 8)).astype("float32")


class StoppedError(Exception):
    """Raised to interrupt the data."""


def stream(x, labels=EVERY, stop=None):
    for row in range(0, ROWS, BATCH):
        if row == stop:
            raise StoppedError
        yield x[row : row + BATCH], labels[row : row + BATCH]


def begin(path, *, complete, **options):
    """Saves all rows, or `STOP` of them."""
    options = {"ids": EVERY, "memory": SMALL} | options
    data = stream(numbers(), stop=None if complete else STOP)
    if complete:
        layertap.save(two_branches(), data, path, **options)
    else:
        with pytest.raises(StoppedError):
            layertap.save(two_branches(), data, path, **options)


def changed(array, row):
    array = array.copy()
    array[row] += 1
    return array


def other_weights():
    model = two_branches()
    model.get_layer("left").bias.assign(np.ones(16))
    return model


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
    "reduction": ({"reduce": "mean"}, "reduce: the store has None, this run mean"),
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
        f"inputs of rows 320 to 339 have digest {HEX} in the store, and {HEX} in this",
    ),
    "the last row saved": (
        {"x": lambda x: changed(x, STOP - 1)},
        "inputs of rows 600 to 619 have digest",
    ),
    "preprocessing": (
        {"x": lambda x: np.where(np.arange(ROWS)[:, None] < 300, x, x * 1.001)},
        "inputs of rows 300 to 319 have digest",
    ),
    "augmentation": (
        {"x": lambda x: x + np.random.default_rng().normal(size=8).astype("float32")},
        "inputs of rows 0 to 19 have digest",
    ),
}


@pytest.fixture(scope="module", params=[False, True], ids=["stopped", "complete"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("identity") / "v.zarr"
    begin(path, complete=request.param)
    return path


def files(path):
    return {
        file: file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file != path / "zarr.json"
    }


@pytest.mark.every_backend
@pytest.mark.parametrize("change", CHANGES)
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
    (store / "zarr.json").write_bytes(root.contents())
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
    with pytest.raises(OtherRunError, match="inputs of rows 320 to 351 have digest"):
        layertap.save(model, changed(x, 333), path, memory=SMALL)
    with pytest.raises(OtherRunError, match="batch size: the store has 32, this run 8"):
        layertap.save(model, x, path, memory=SMALL, batch_size=8)
    replaced = layertap.save(model, changed(x, 333), path, memory=SMALL, overwrite=True)
    assert layertap.verify(replaced, model, changed(x, 333), rows=None)


def test_more_or_fewer_data_than_a_complete_store_has(tmp_path):
    model, x = two_branches(), numbers()
    layertap.save(model, stream(x), tmp_path / "v.zarr")
    for data in (
        itertools.islice(stream(x), 49),
        itertools.chain(stream(x), [(x[:5], EVERY[:5])]),
    ):
        with pytest.raises(OtherRunError, match="rows: the store has 1000, the data"):
            layertap.save(model, data, tmp_path / "v.zarr")


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


@pytest.mark.parametrize("start", [0, 600])
def test_labels_are_compared_exactly(tmp_path, start):
    """A label of a regression does not match its neighbour by rounding."""
    labels = np.linspace(0, 1e6, ROWS)
    labels[3] = np.nan
    with pytest.raises(StoppedError):
        layertap.save(
            two_branches(), stream(numbers(), labels, STOP), tmp_path / "v.zarr"
        )
    others = labels.copy()
    others[start + 7] += 0.01
    with pytest.raises(OtherRunError, match=f"labels of row {start + 7} is "):
        layertap.save(two_branches(), stream(numbers(), others), tmp_path / "v.zarr")
    same = stream(numbers(), labels)
    assert layertap.save(two_branches(), same, tmp_path / "v.zarr").complete


@pytest.mark.parametrize("start", [0, 600])
def test_sample_weights_are_compared_exactly(tmp_path, start):
    def weighted(weights, stop=None):
        for row, (x, y) in zip(
            range(0, ROWS, BATCH), stream(numbers(), stop=stop), strict=False
        ):
            yield x, y, weights[row : row + BATCH]

    weights, path = np.linspace(0, 1e6, ROWS), tmp_path / "v.zarr"
    with pytest.raises(StoppedError):
        layertap.save(two_branches(), weighted(weights, STOP), path)
    others = weights.copy()
    others[start + 7] += 0.01
    with pytest.raises(OtherRunError, match=f"sample_weight of row {start + 7} is "):
        layertap.save(two_branches(), weighted(others), path)
    with pytest.raises(OtherRunError, match="sample_weight: the store has "):
        layertap.save(two_branches(), stream(numbers()), path)
    assert layertap.save(two_branches(), weighted(weights), path).complete
    with pytest.raises(OtherRunError, match=f"sample_weight of row {start + 7} is "):
        layertap.save(two_branches(), weighted(others), path)


def test_ids_that_differ_are_shown_decoded(tmp_path):
    numbered, named = np.arange(ROWS) + 2**60, [f"row {n}" for n in range(ROWS)]
    others = numbered.copy()
    others[20] += 1
    for ids, other, message in (
        (numbered, others, f"row 20 is {2**60 + 20} in the store, and {2**60 + 21} "),
        (named, [*named[:20], "zwanzig", *named[21:]], "row 20 is row 20 .* zwanzig "),
    ):
        path = tmp_path / message[:8] / str(len(message))
        layertap.save(two_branches(), stream(numbers()), path, ids=ids)
        with pytest.raises(OtherRunError, match=f"ids of {message}"):
            layertap.save(two_branches(), stream(numbers()), path, ids=other)


@pytest.mark.parametrize(
    "options",
    [{"compression": "gzip"}, {"memory": 0}, {"y": np.array(["a"] * ROWS)}],
    ids=str,
)
def test_no_store_is_replaced_if_the_new_one_can_not_be_made(tmp_path, options):
    path = tmp_path / "v.zarr"
    begin(path, complete=True)
    before = files(path)
    x, y = numbers(), options.pop("y", EVERY)
    with pytest.raises(LayertapError):
        layertap.save(other_weights(), (x, y), path, overwrite=True, **options)
    assert files(path) == before


def test_a_save_without_resume_replaces_the_store(tmp_path):
    path = tmp_path / "v.zarr"
    begin(path, complete=False)
    before = read_root(LocalStorage(path)).store
    saved = layertap.save(
        two_branches(),
        stream(numbers()),
        path,
        ids=EVERY,
        resume=False,
        overwrite=True,
    )
    assert saved.complete
    assert saved.reader.store != before


def test_a_reader_does_not_show_the_store_that_replaced_its_own(tmp_path):
    path, x = tmp_path / "v.zarr", numbers()
    opened = layertap.save(two_branches(), x, path)
    expected = opened["fusion/in/0"][:32]
    layertap.save(other_weights(), x, path, overwrite=True)
    for name in ("fusion/in/0", "fusion/in/1"):
        with pytest.raises(StoreError, match="Open it again"):
            opened[name][:32]
    assert (layertap.open(path)["fusion/in/0"][:32] != expected).any()


def test_resuming_recomputes_a_tenth_at_most(tmp_path, monkeypatch):
    """One block has all rows here; their last tenth is computed again."""
    computed = []
    begun = Tap.begin

    def counted(self, batch):
        computed.append(batch.row)
        return begun(self, batch)

    monkeypatch.setattr(Tap, "begin", counted)
    x = np.tile(numbers(), (20, 1))

    def batches(stop):
        for row in range(0, stop, 100):
            yield x[row : row + 100]
        if stop < len(x):
            raise StoppedError

    with pytest.raises(StoppedError):
        layertap.save(two_branches(), batches(15000), tmp_path / "v.zarr")
    assert computed == list(range(0, 15000, 100))
    computed.clear()
    saved = layertap.save(two_branches(), batches(20000), tmp_path / "v.zarr")
    assert saved.reader.block_rows > len(x)
    assert computed == [0, *range(13500, 20000, 100)]


def learning(layer, learned_of):
    """Returns a model with a layer that adapts to data, without a variable."""
    keras.backend.clear_session()
    dtype = "int64" if keras.backend.backend() == "tensorflow" else "int32"
    x = keras.Input((3,), name="x", dtype=dtype)
    layer.adapt(np.array(learned_of))
    both = layers.Concatenate(name="fusion")([ops.cast(layer(x), dtype), x])
    return keras.Model(x, both, name="learning")


def bins():
    return layers.Discretization(num_bins=3, name="learned")


def words():
    return layers.IntegerLookup(name="learned")


def weighted_words():
    return layers.IntegerLookup(output_mode="tf_idf", name="learned")


# Data to adapt to, and data that make no difference for the data below.
LEARNED = [(bins, range(50), [*range(50), 50.5])]
if keras.backend.backend() == "tensorflow":
    # With other backends, such layers only work outside of models.
    LEARNED.append((words, [7, 7, 8], [7, 7, 8, 90]))
    LEARNED.append((weighted_words, [[7, 7], [7, 8]], [[7, 7], [8, 8]]))


@pytest.mark.every_backend
@pytest.mark.parametrize(("layer", "one", "other"), LEARNED)
def test_what_layers_adapted_to_is_part_of_a_run(tmp_path, layer, one, other):
    x = np.zeros((10, 3), "int32")
    layertap.save(learning(layer(), one), x, tmp_path / "v.zarr")
    with pytest.raises(OtherRunError, match="weights: the store has"):
        layertap.save(learning(layer(), other), x, tmp_path / "v.zarr")
    assert layertap.save(learning(layer(), one), x, tmp_path / "v.zarr").complete
