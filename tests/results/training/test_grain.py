"""Saved values as a data set of grain, and data of grain as input."""

import grain
import keras
import numpy as np
import pytest

import layertap
from tests.support.classifier import CLASSES, ROWS, X, classifier

pytestmark = pytest.mark.every_backend


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("grain") / "values.zarr"
    return layertap.save(classifier(), (X, CLASSES), path, before="fusion")


def joined(batches):
    return np.concatenate([np.concatenate([*x.values()], 1) for x, _ in batches])


def test_batches_have_all_rows_in_order(saved):
    data = saved.grain(batch_size=16)
    assert isinstance(data, grain.MapDataset)
    assert [len(y) for _, y in data] == [16, 16, 8]
    expected = np.concatenate([saved["fusion/in/0"][:], saved["fusion/in/1"][:]], 1)
    np.testing.assert_array_equal(joined(data), expected)
    np.testing.assert_array_equal(joined(data[1:]), expected[16:])
    assert len(saved.grain(batch_size=16, drop_remainder=True)) == 2
    last = saved.grain(batch_size=16, shuffle=True, seed=1)
    np.testing.assert_array_equal(last[-1][1], last[2][1])


def test_each_epoch_has_its_own_order_and_repeats_it(saved):
    data = saved.grain(batch_size=8, shuffle=True, seed=3)
    labels = np.concatenate([y for _, y in data.repeat(2)]).reshape(2, ROWS)
    rows = np.concatenate([x["fusion/in/0"] for x, _ in data.repeat(2)])
    first, second = np.split(rows, 2)
    assert (first != second).any()
    for epoch in (first, second):
        found = [np.flatnonzero((saved["fusion/in/0"][:] == r).all(1)) for r in epoch]
        assert sorted(np.concatenate(found).tolist()) == [*range(ROWS)]
    again = saved.grain(batch_size=8, shuffle=True, seed=3)
    assert labels[0].tolist() == np.concatenate([y for _, y in again]).tolist()


def test_a_head_is_trained_on_it(saved):
    head = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
    head.compile("sgd", "sparse_categorical_crossentropy")
    data = saved.grain(joined=True, before="fusion", batch_size=10)
    history = head.fit(
        data.repeat(), steps_per_epoch=len(data), epochs=2, verbose=0, shuffle=False
    )
    losses = history.history["loss"]
    assert losses[1] < losses[0]


ROWS_OF_GRAIN = [(X[row], CLASSES[row]) for row in range(ROWS)]


def loader(source):
    sampler = grain.samplers.IndexSampler(
        ROWS, num_epochs=1, shard_options=grain.sharding.NoSharding(), seed=0
    )
    batch = grain.transforms.Batch(16)
    return grain.DataLoader(data_source=source, sampler=sampler, operations=[batch])


@pytest.mark.parametrize(
    "batched",
    [
        lambda source: source.batch(16),
        lambda source: source.to_iter_dataset().batch(16),
        loader,
    ],
    ids=["map", "iterable", "loader"],
)
def test_data_of_grain_are_data(batched, tmp_path):
    model = classifier()
    data = batched(grain.MapDataset.source(ROWS_OF_GRAIN))
    saved = layertap.save(model, data, tmp_path / "values.zarr", before="fusion")
    expected = layertap.capture(model, X, before="fusion", batch_size=16)
    for name, array in expected.items():
        np.testing.assert_array_equal(saved[name][:], array)
    assert saved.labels[:].tolist() == CLASSES.tolist()
    # The same call compares, and resumes.
    assert layertap.save(model, data, saved.path, before="fusion").rows == ROWS


def test_rows_of_grain_that_are_not_batched_are_refused():
    source = grain.MapDataset.source(ROWS_OF_GRAIN)
    with pytest.raises(layertap.DataError, match=r"Batch the data"):
        layertap.capture(classifier(), source)
