"""A resumed save compares its data; a save replaces only a complete store."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import layertap
from layertap.errors import LayertapError, OtherRunError, StoreError
from layertap.pipeline.planned_pass import PlannedPass
from layertap.store.format.root import read_root
from layertap.store.storage.files import LocalStorage
from tests.support.resumes import (
    BATCH,
    EVERY,
    ROWS,
    STOP,
    StoppedError,
    begin,
    files,
    numbers,
    other_weights,
    stream,
    two_branches,
    words,
)

pytestmark = pytest.mark.one_backend


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
    [{"compression": "gzip"}, {"memory": 0}, {"y": np.array([["a"]] * ROWS)}],
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


@pytest.mark.parametrize("complete", [False, True])
def test_a_save_without_resume_replaces_the_store(tmp_path, complete):
    path = tmp_path / "v.zarr"
    begin(path, complete=complete)
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
    begun = PlannedPass.begin

    def counted(self, batch):
        computed.append(batch.row)
        return begun(self, batch)

    monkeypatch.setattr(PlannedPass, "begin", counted)
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
    keras.utils.clear_session(free_memory=False)
    dtype = "int64" if keras.backend.backend() == "tensorflow" else "int32"
    x = keras.Input((3,), name="x", dtype=dtype)
    layer.adapt(np.array(learned_of))
    both = layers.Concatenate(name="fusion")([ops.cast(layer(x), dtype), x])
    return keras.Model(x, both, name="learning")


def bins():
    return layers.Discretization(num_bins=3, name="learned")


def weighted_words():
    return layers.IntegerLookup(output_mode="tf_idf", name="learned")


# Data to adapt to, and data that make no difference for the data below.
LEARNED = [
    (bins, range(50), [*range(50), 50.5]),
    (words, [7, 7, 8], [7, 7, 8, 90]),
    (weighted_words, [[7, 7], [7, 8]], [[7, 7], [8, 8]]),
]


@pytest.mark.every_backend
@pytest.mark.parametrize(("layer", "one", "other"), LEARNED)
def test_what_layers_adapted_to_is_part_of_a_run(tmp_path, layer, one, other):
    x = np.zeros((10, 3), "int32")
    layertap.save(learning(layer(), one), x, tmp_path / "v.zarr")
    with pytest.raises(OtherRunError, match="weights: the store has"):
        layertap.save(learning(layer(), other), x, tmp_path / "v.zarr")
    assert layertap.save(learning(layer(), one), x, tmp_path / "v.zarr").complete


class Noise(layers.Layer):
    """Adds random numbers, at inference too."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def noisy(seed):
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((8,), name="x")
    branches = [Noise(seed, name="one")(x), Noise(name="two")(x)]
    both = layers.Concatenate(name="fusion")(branches)
    return keras.Model(x, layers.Dropout(0.5, name="off")(both), name="noisy")


@pytest.mark.every_backend
def test_random_numbers_do_not_depend_on_what_ran_before(tmp_path):
    model, x = noisy(7), numbers()[:40]
    saved = layertap.save(model, x, tmp_path / "v.zarr", batch_size=20)
    assert saved.plan.random == ("one", "two")
    assert "the same in every batch: one, two" in str(saved.plan)
    model.predict(x, verbose=0)
    states = [np.asarray(variable.numpy()) for variable in model.variables]
    # A generator without a seed is seeded by its number, here 1.
    for name, seed in (("fusion/in/0", 7), ("fusion/in/1", 1)):
        noise = ops.convert_to_numpy(keras.random.normal((20, 8), seed=seed))
        expected = x + np.tile(noise, (2, 1))
        np.testing.assert_allclose(saved[name][:], expected, atol=1e-6)
        values = layertap.capture(model, x, batch_size=20)
        np.testing.assert_array_equal(values[name], saved[name][:])
    assert layertap.save(model, x, tmp_path / "v.zarr", batch_size=20).complete
    assert layertap.save(noisy(7), x, tmp_path / "v.zarr", batch_size=20).complete
    assert layertap.verify(saved, noisy(7), x)
    for variable, state in zip(model.variables, states, strict=True):
        np.testing.assert_array_equal(variable.numpy(), state)
    with pytest.raises(OtherRunError, match="configuration"):
        layertap.save(noisy(8), x, tmp_path / "v.zarr", batch_size=20)


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("size", [7, 32, 2000])
def test_a_save_goes_on_in_batches_of_another_size(tmp_path, complete, size):
    model, x, path = two_branches(), numbers(), tmp_path / "v.zarr"
    begin(path, complete=complete)
    before = layertap.open(path)
    saved = layertap.save(model, (x, EVERY), path, ids=EVERY, batch_size=size)
    assert (saved.rows, saved.complete) == (ROWS, True)
    assert saved.reader.store == before.reader.store
    assert saved.labels[:].tolist() == saved.ids.tolist() == EVERY.tolist()
    # In the batches of the store.
    report = layertap.verify(saved, model, x, rows=None)
    assert report, report
    assert report.other_inputs == 0
    x[990] += 1
    with pytest.raises(OtherRunError, match="the inputs of row 990 are not those in"):
        layertap.save(model, (x, EVERY), path, ids=EVERY, batch_size=size)


def test_arrays_resume_a_store_of_batches_of_their_size(tmp_path):
    model, x, path = two_branches(), numbers(), tmp_path / "v.zarr"
    begin(path, complete=False, ids=None)
    data = (x, EVERY)
    saved = layertap.save(model, data, path, batch_size=BATCH)
    assert (saved.rows, saved.complete) == (ROWS, True)
    # Without a batch size, verification has that of the store.
    report = layertap.verify(saved, model, x, rows=None)
    assert report.other_inputs == 0
    assert {check.verdict for check in report.checks} == {"identical"}
    assert layertap.save(model, stream(x), path).complete
