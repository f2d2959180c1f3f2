"""Training from a store equals training from memory."""

import itertools
import pickle

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import (
    AddressError,
    DataError,
    DataTypeError,
    OptionError,
)
from tests.support.trained import (
    BATCH,
    FIRST,
    LABELS,
    ROWS,
    WEIGHTS,
    all_of,
    first_of,
    head,
    model,
    numbers,
    rows_of,
)
from tests.zoo import one_in

pytestmark = [
    pytest.mark.every_backend,
    # Addresses are not names of inputs.
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
    # Keras and PyTorch's loader fork. The forked processes only read files.
    pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


WORKERS = [{"workers": 0}, {}, {"workers": 2}]


PROCESSES = {"workers": 2, "use_multiprocessing": True}


@pytest.mark.parametrize("options", one_in(4, [*WORKERS, PROCESSES]), ids=str)
def test_training_equals_training_on_arrays(store, truth, options):
    x, mine, theirs = first_of(truth), head(FIRST), head(FIRST)
    dataset = store.dataset("first", batch_size=BATCH, **options)
    training = {"epochs": 3, "shuffle": False, "verbose": 0}
    actual = mine.fit(dataset, validation_data=dataset, **training).history
    expected = theirs.fit(
        *(x, LABELS, BATCH), sample_weight=WEIGHTS,
        validation_data=(x, LABELS, WEIGHTS), **training,
    ).history  # fmt: skip
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-5)
    np.testing.assert_allclose(
        mine.evaluate(dataset, verbose=0),
        theirs.evaluate(x, LABELS, BATCH, sample_weight=WEIGHTS, verbose=0),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        mine.predict(store.dataset("first", labels=False, **options), verbose=0),
        theirs.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-5,
    )


def test_fit_with_its_defaults_reads_every_row(store, truth):
    """Keras shuffles the batches; without learning, the loss is the same."""
    mine, theirs = head(FIRST), head(FIRST)
    for built in (mine, theirs):
        built.optimizer.learning_rate = 0.0
    dataset = store.dataset("first", shuffle=True)
    actual = mine.fit(dataset, epochs=2, verbose=0).history
    expected = theirs.fit(
        first_of(truth), LABELS, sample_weight=WEIGHTS, verbose=0
    ).history
    np.testing.assert_allclose(actual["loss"], expected["loss"] * 2, rtol=1e-4)
    # Orders 1 and 2 are done: Keras also ends an epoch before the first one.
    assert dataset.epoch == 3


@pytest.mark.one_backend
def test_batches_have_the_chosen_values(store, truth):
    for before, outputs, names in (
        (None, None, [name for name in truth if name != "head/out"]),
        ("sec*", None, ["second/in/0", "second/in/1", "second/in/2"]),
        (["first", "second"], None, [name for name in truth if name != "head/out"]),
        (None, "*", ["head/out"]),
        ("first", "head", [*FIRST, "head/out"]),
    ):
        x, y, weights = all_of(store.dataset(before, outputs=outputs, batch_size=33))
        assert list(x) == names
        for name in names:
            np.testing.assert_allclose(x[name], truth[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y, LABELS)
        np.testing.assert_array_equal(weights, WEIGHTS)


@pytest.mark.one_backend
def test_joined_batches_have_one_array(store, truth):
    batches = store.dataset("second", joined=True, labels=False, batch_size=ROWS)
    ((x,),) = list(batches)
    parts = [truth[f"second/in/{index}"] for index in range(3)]
    np.testing.assert_allclose(x, np.concatenate(parts, 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(OptionError, match="Expected the branches of one concatenation"):
        store.dataset(joined=True)


def test_values_that_bypass_the_joins_are_included(tmp_path):
    x = keras.Input((8,), name="x")
    left = layers.Dense(3, name="left")(x)
    joined = layers.Concatenate(name="fusion")([left, layers.Dense(4)(x)])
    end = layers.Add()([layers.Dense(8)(joined), x])
    made = keras.Model(x, end)
    saved = layertap.save(
        *(made, (numbers(), LABELS), tmp_path / "v.zarr"),
        outputs="left",
        before="*",
        for_head=True,
    )
    names = ["fusion/in/0", "fusion/in/1", "x/out"]
    assert list(saved.dataset()[0][0]) == names
    assert list(saved.dataset("fusion")[0][0]) == names
    assert list(saved.dataset(outputs="left")[0][0]) == ["left/out"]
    _, head = layertap.split(made)
    actual = head.predict(saved.dataset(labels=False), verbose=0)
    expected = made.predict(numbers(), verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.one_backend
def test_stores_with_other_weights_differ(store, tmp_path):
    other = layertap.save(model(), (numbers(), LABELS, 2 * WEIGHTS), tmp_path / "v")
    report = layertap.diff(store, other)
    assert not report
    assert report["sample_weight"].verdict == "different"
    assert report["labels"].verdict == "identical"


@pytest.mark.one_backend
def test_without_joins_all_outputs_are_chosen(tmp_path):
    path = tmp_path / "v.zarr"
    layertap.save(model(), numbers(), path, outputs=["d*", "head"])
    (x,) = layertap.open(path).dataset(batch_size=ROWS)[0]
    assert list(x) == ["d5/out", "d24/out", "head/out"]


@pytest.mark.one_backend
def test_batch_sizes_and_the_last_batch(store):
    dataset = store.dataset("first", batch_size=BATCH, labels=np.arange(ROWS))
    assert [len(y) for _, y, _ in dataset] == [32] * 12 + [16]
    assert len(dataset) == 13
    assert rows_of(dataset) == list(range(ROWS))
    full = store.dataset("first", batch_size=BATCH, drop_remainder=True)
    assert [len(y) for _, y, _ in full] == [32] * 12
    for index in (-1, 13):
        with pytest.raises(IndexError):
            dataset[index]


@pytest.mark.one_backend
def test_batches_are_equal_in_any_order_and_may_be_changed(store):
    options = {"batch_size": 7, "shuffle": True, "seed": 1}
    expected = list(store.dataset("first", **options))
    dataset = store.dataset("first", **options)
    numbers = np.random.default_rng(0).permutation(2 * len(dataset)) // 2
    for number in numbers.tolist():
        x, y, _ = dataset[number]
        values = x["first/in/1"]
        np.testing.assert_array_equal(values, expected[number][0]["first/in/1"])
        np.testing.assert_array_equal(y, expected[number][1])
        values[:] = np.nan
        y[:] = -1


@pytest.mark.one_backend
@pytest.mark.parametrize("cached", [True, False])
def test_a_shuffled_epoch_has_each_row_once_block_by_block(store, monkeypatch, cached):
    if not cached:
        monkeypatch.setattr("layertap.results.training.batches._CACHED_BYTES", 0)
    options = {"labels": np.arange(ROWS), "batch_size": 9, "shuffle": True}
    dataset = store.dataset("first", **options, seed=5)
    epochs = []
    for epoch in range(3):
        assert dataset.epoch == epoch
        epochs.append(rows_of(dataset))
        dataset.on_epoch_end()
    size = store.reader.block_rows
    for rows in epochs:
        assert sorted(rows) == list(range(ROWS))
        blocks = [row // size for row in rows]
        changes = sum(a != b for a, b in itertools.pairwise(blocks))
        assert changes == len(set(blocks)) - 1
    assert len({tuple(rows) for rows in epochs}) == 3
    again = pickle.loads(pickle.dumps(store.dataset("first", **options, seed=5)))
    again.epoch = 2
    assert rows_of(again) == epochs[2]
    assert rows_of(store.dataset("first", **options, seed=6)) != epochs[0]
    values = store["first/in/1"][:]
    for x, y, _ in again:
        np.testing.assert_array_equal(x["first/in/1"], values[y])


@pytest.mark.one_backend
def test_batches_far_apart_are_read_alone(store, monkeypatch):
    monkeypatch.setattr("layertap.results.training.batches._CACHED_BYTES", 0)
    dataset = store.dataset("first", batch_size=1, labels=np.arange(ROWS))
    for number in (300, 5, 6, 200, 7, 399):
        x, y, _ = dataset[number]
        assert y.tolist() == [number]
        np.testing.assert_array_equal(x["first/in/0"][0], store["first/in/0"][number])


@pytest.mark.one_backend
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (range(100, 300), list(range(100, 300))),
        (range(390, 10, -7), list(range(390, 10, -7))),
        (slice(None, None, 3), list(range(0, ROWS, 3))),
        ([7, 399, 7, 0], [7, 399, 7, 0]),
        (np.array([5, 3], "uint8"), [5, 3]),
        (np.arange(ROWS) % 50 == 1, [1, 51, 101, 151, 201, 251, 301, 351]),
    ],
    ids=str,
)
def test_some_rows(store, rows, expected, shuffle):
    dataset = store.dataset(
        "first", rows=rows, labels=np.arange(ROWS), shuffle=shuffle, batch_size=3
    )
    actual = rows_of(dataset)
    assert (sorted(actual) if shuffle else actual) == (
        sorted(expected) if shuffle else expected
    )
    x, _, weights = all_of(dataset)
    np.testing.assert_array_equal(x["first/in/1"], store["first/in/1"][:][actual])
    np.testing.assert_array_equal(weights, WEIGHTS[actual])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rows": [1, ROWS]}, OptionError, "rows from 0 to 399. Received 400"),
        ({"rows": range(-1, 5)}, OptionError, "rows from 0 to 399. Received -1"),
        ({"rows": []}, OptionError, "No row is left"),
        ({"rows": range(5, 5)}, OptionError, "No row is left"),
        ({"rows": [True, False]}, OptionError, "one boolean for each of the 400 rows"),
        ({"rows": 7}, OptionError, "Received int64 of shape"),
        ({"rows": [0.5]}, OptionError, "Received float64 of shape"),
        ({"batch_size": 0}, OptionError, "`batch_size`.* at least 1. Received 0"),
        (
            {"batch_size": 401, "drop_remainder": True},
            OptionError,
            "400 rows do not fill one batch of 401",
        ),
        ({"seed": -1}, OptionError, "whole number, at least 0"),
        ({"before": "fusion"}, AddressError, "No join of this model matches 'fusion'"),
        ({"outputs": "tail"}, AddressError, "No output of this model matches 'tail'"),
        ({"labels": LABELS[1:]}, DataError, r"400 rows, .* Received shape \(399,\)"),
        (
            {"labels": {"a": LABELS, "b": 1}},
            DataError,
            r"`labels=` .* Received shape \(\)",
        ),
        (
            {"labels": np.array(["a"] * ROWS)},
            DataTypeError,
            "Expected numbers, .* Received <U1",
        ),
        (
            {"sample_weight": WEIGHTS[1:]},
            DataError,
            "`sample_weight=` does not match the store",
        ),
        ({"labels": False, "sample_weight": WEIGHTS}, DataError, "Pass `labels=`, too"),
    ],
    ids=str,
)
def test_unusable_options_are_reported(store, options, error, message):
    with pytest.raises(error, match=message):
        store.dataset(**options)
