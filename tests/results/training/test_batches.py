"""Training from a store equals training from memory."""

import itertools
import pickle
import sys

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import (
    AddressError,
    BackendMissingError,
    DataError,
    DataTypeError,
    OptionError,
)

ROWS, BATCH = 400, 32
# Blocks of fewer than a hundred rows.
SMALL = 3 * 2**14
BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.every_backend,
    # Addresses are not names of inputs.
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
    # Keras and PyTorch's loader fork. The forked processes only read files.
    pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


def model():
    """Two joins, with a branch in common."""
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    left, right = (layers.Dense(n, name=f"d{n}")(x) for n in (5, 24))
    first = layers.Concatenate(name="first")([left, right])
    second = layers.Concatenate(name="second")([first, x, left])
    return keras.Model(x, layers.Dense(3, name="head")(second), name="two")


def numbers():
    return np.random.default_rng(0).normal(size=(ROWS, 8)).astype("float32")


LABELS = np.arange(ROWS) % 3
WEIGHTS = np.linspace(0, 2, ROWS).astype("float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "v.zarr"
    data = (numbers(), LABELS, WEIGHTS)
    layertap.save(
        *(model(), data, path),
        outputs="head",
        before="*",
        memory=SMALL,
        ids=range(ROWS),
    )
    saved = layertap.open(path)
    assert 3 < ROWS / saved.reader.block_rows < 10
    return saved


@pytest.fixture(scope="module")
def truth():
    """The branches, by a model for each."""
    original = model()
    of = {
        "first/in/0": original.get_layer("d5").output,
        "first/in/1": original.get_layer("d24").output,
        "second/in/0": original.get_layer("first").output,
        "second/in/1": original.input,
        "second/in/2": original.get_layer("d5").output,
        "head/out": original.output,
    }
    values = keras.Model(original.input, list(of.values())).predict(
        numbers(), batch_size=BATCH, verbose=0
    )
    return dict(zip(of, values, strict=True))


def head(shapes):
    keras.utils.set_random_seed(2)
    inputs = {name: keras.Input((size,)) for name, size in shapes.items()}
    joined = layers.Concatenate()(list(inputs.values()))
    built = keras.Model(inputs, layers.Dense(3)(joined))
    built.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # Builds the metrics. Otherwise `fit` does it from a batch of the data. Then its
    # first epoch repeats the batches that workers had read ahead.
    row = {name: np.zeros((1, size), "float32") for name, size in shapes.items()}
    built.train_on_batch(row, np.zeros(1, "int64"), sample_weight=np.zeros(1))
    return built


FIRST = {"first/in/0": 5, "first/in/1": 24}


def first_of(truth):
    return {name: truth[name] for name in FIRST}


def all_of(batches):
    """Concatenates batches of `(x, y, sample_weight)`."""
    return tuple(
        {key: np.concatenate([np.asarray(p[key]) for p in parts]) for key in parts[0]}
        if isinstance(parts[0], dict)
        else np.concatenate([np.asarray(part) for part in parts])
        for parts in zip(*batches, strict=True)
    )


def rows_of(dataset):
    """Returns the row numbers of a data set whose labels they are."""
    return [int(row) for batch in dataset for row in np.asarray(batch[1])]


WORKERS = [{"workers": 0}, {}, {"workers": 2}]
PROCESSES = {"workers": 2, "use_multiprocessing": True}


@pytest.mark.parametrize("options", [*WORKERS, PROCESSES], ids=str)
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
        assert list(x) == sorted(names)
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
    assert list(x) == ["d24/out", "d5/out", "head/out"]


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
        ({"batch_size": 0}, OptionError, "at least 1 row. Received batch_size=0"),
        (
            {"batch_size": 401, "drop_remainder": True},
            OptionError,
            "400 rows do not fill one batch of 401",
        ),
        ({"seed": -1}, OptionError, "Expected an integer from 0 on"),
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


def test_labels_and_weights_that_were_not_saved(store, truth):
    assert len(store.dataset(labels=False)[0]) == 1
    assert len(store.dataset(sample_weight=False)[0]) == 2
    labels = {"a": LABELS[::-1], "b": [WEIGHTS, numbers()]}
    _, y, weights = store.dataset(
        rows=[3, 1], labels=labels, sample_weight=store["first/in/0"]
    )[0]
    np.testing.assert_array_equal(y["a"], LABELS[::-1][[3, 1]])
    np.testing.assert_array_equal(y["b"][1], numbers()[[3, 1]])
    np.testing.assert_allclose(weights, truth["first/in/0"][[3, 1]], rtol=1e-5)


def test_models_with_several_outputs_accept_structures_of_labels(tmp_path):
    """In a list or a dictionary, with weights of the same structure."""
    x = numbers()
    for form in (list, dict):
        labels = {"a": LABELS / 2, "b": numbers()[:, :2]}
        weights = {"a": WEIGHTS, "b": WEIGHTS[::-1].copy()}
        if form is list:
            labels, weights = list(labels.values()), list(weights.values())
        path = tmp_path / f"{form.__name__}.zarr"
        layertap.save(model(), (x, labels, weights), path, before="first")
        keras.utils.set_random_seed(3)
        inputs = {name: keras.Input((size,)) for name, size in FIRST.items()}
        joined = layers.Concatenate()(list(inputs.values()))
        outputs = {"a": layers.Dense(1, name="a")(joined)}
        outputs["b"] = layers.Dense(2, name="b")(joined)
        two = keras.Model(inputs, outputs if form is dict else [*outputs.values()])
        two.compile("sgd", "mse" if form is dict else ["mse", "mse"])
        saved = layertap.open(path)
        arrays = {name: saved[name][:] for name in FIRST}
        expected = two.evaluate(arrays, labels, sample_weight=weights, verbose=0)
        actual = two.evaluate(saved.dataset(), verbose=0)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_narrow_floats_train(tmp_path):
    path = tmp_path / "v.zarr"
    layertap.save(model(), (numbers(), LABELS), path, before="first", dtype="bfloat16")
    saved = layertap.open(path)
    x = {name: saved[name][:] for name in FIRST}
    assert x["first/in/0"].dtype == ml_dtypes.bfloat16
    wide = {name: values.astype("float32") for name, values in x.items()}
    expected = head(FIRST).evaluate(wide, LABELS, verbose=0)
    actual = head(FIRST).evaluate(saved.dataset(), verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.one_backend
def test_committed_rows_can_be_trained_on(tmp_path):
    def stopped():
        yield from ((numbers()[n : n + 20], LABELS[n : n + 20]) for n in (0, 20, 40))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layertap.save(model(), stopped(), tmp_path / "v.zarr", before="first")
    saved = layertap.open(tmp_path / "v.zarr")
    assert (saved.rows, saved.complete) == (60, False)
    _, y = all_of(saved.dataset())
    np.testing.assert_array_equal(y, LABELS[:60])


torch_only = pytest.mark.skipif(
    BACKEND != "torch",
    reason="Keras fits PyTorch's tensors on PyTorch only",
)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collated", [True, False])
def test_a_loader_of_pytorch_has_the_rows_as_tensors(store, workers, collated):
    import torch

    if workers and BACKEND == "jax":
        pytest.skip("on Linux loaders fork, which JAX does not survive")
    data = store.torch(["first", "second"], rows=range(10, 90))
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=BATCH,
        num_workers=workers,
        **({"collate_fn": data.collate} if collated else {}),
    )
    batches = list(loader)
    assert [batch[0]["first/in/1"].shape for batch in batches] == [
        (32, 24), (32, 24), (16, 24),
    ]  # fmt: skip
    x, y, weights = all_of(batches)
    for name in x:
        np.testing.assert_array_equal(x[name], store[name][10:90])
    np.testing.assert_array_equal(y, LABELS[10:90])
    np.testing.assert_array_equal(weights, WEIGHTS[10:90])


def test_a_row_of_pytorch(store):
    import torch

    data = store.torch("first", rows=range(2, 4))
    assert len(data) == 2
    x, y, weight = data[-1]
    assert x["first/in/1"].shape == (24,)
    assert (y.dtype, weight.dtype) == (torch.int64, torch.float32)
    np.testing.assert_array_equal(x["first/in/1"], store["first/in/1"][3])
    for index in (2, -3):
        with pytest.raises(
            IndexError, match=f"Row {index} is out of range: there are 2"
        ):
            data[index]
    assert [int(y) for _, y, _ in data.__getitems__([1, 0, 1])] == [0, 2, 0]


@torch_only
def test_training_from_a_loader_equals_training_on_arrays(store, truth):
    import torch

    data = store.torch("first")
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, collate_fn=data.collate
    )
    training = {"epochs": 2, "shuffle": False, "verbose": 0}
    actual = head(FIRST).fit(loader, **training).history
    expected = head(FIRST).fit(
        first_of(truth), LABELS, BATCH, sample_weight=WEIGHTS, **training
    )
    np.testing.assert_allclose(actual["loss"], expected.history["loss"], rtol=1e-5)


def test_datasets_of_tensorflow_have_known_shapes(store):
    import tensorflow as tf

    for drop, rows in ((False, None), (True, BATCH)):
        data = store.tf("first", batch_size=BATCH, drop_remainder=drop)
        assert data.element_spec == (
            {
                "first/in/0": tf.TensorSpec((rows, 5), tf.float32),
                "first/in/1": tf.TensorSpec((rows, 24), tf.float32),
            },
            tf.TensorSpec((rows,), tf.int64),
            tf.TensorSpec((rows,), tf.float32),
        )
        assert int(data.cardinality()) == (12 if drop else 13)
    assert list(store.tf(labels=False).element_spec[0]) == sorted(
        branch.address for join in store.plan.joins for branch in join.branches
    )


@pytest.mark.parametrize("small", [True, False])
def test_datasets_of_tensorflow_have_the_rows(store, monkeypatch, small):
    if small:
        monkeypatch.setattr("layertap.results.training.batches._PIECE_BYTES", 20_000)
    data = store.tf("first", batch_size=BATCH, rows=range(5, 395))
    batches = [(x, y.numpy(), w.numpy()) for x, y, w in data]
    assert [len(y) for _, y, _ in batches] == [32] * 12 + [6]
    x, y, weights = all_of(batches)
    np.testing.assert_array_equal(x["first/in/0"], store["first/in/0"][5:395])
    np.testing.assert_array_equal(y, LABELS[5:395])
    np.testing.assert_array_equal(weights, WEIGHTS[5:395])


def test_datasets_of_tensorflow_shuffle_each_iteration(store):
    options = {"labels": np.arange(ROWS), "shuffle": True, "seed": 3}
    data = store.tf("first", **options)
    first, second = rows_of(data), rows_of(data)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first == rows_of(store.dataset("first", **options))


@pytest.mark.skipif(
    BACKEND != "tensorflow",
    reason="Keras fits a tf.data.Dataset fast on TensorFlow only",
)
def test_training_from_tensorflows_is_that_on_arrays(store, truth):
    training = {"epochs": 2, "shuffle": False, "verbose": 0}
    actual = head(FIRST).fit(store.tf("first", batch_size=BATCH), **training).history
    expected = head(FIRST).fit(
        first_of(truth), LABELS, BATCH, sample_weight=WEIGHTS, **training
    )
    np.testing.assert_allclose(actual["loss"], expected.history["loss"], rtol=1e-5)


def test_bfloat16_stays_what_it_is(tmp_path):
    import tensorflow as tf
    import torch

    path = tmp_path / "v.zarr"
    layertap.save(model(), numbers(), path, before="first", dtype="bfloat16")
    saved = layertap.open(path)
    expected = saved["first/in/1"][:].astype("float32")
    (row,) = saved.torch()[7]
    assert row["first/in/1"].dtype == torch.bfloat16
    np.testing.assert_array_equal(row["first/in/1"].float(), expected[7])
    ((batch,),) = saved.tf(batch_size=ROWS)
    assert batch["first/in/1"].dtype == tf.bfloat16
    np.testing.assert_array_equal(
        tf.cast(batch["first/in/1"], tf.float32).numpy(), expected
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(("module", "use"), [("torch", "torch"), ("tensorflow", "tf")])
def test_a_missing_package_is_named(store, monkeypatch, module, use):
    monkeypatch.setitem(sys.modules, module, None)
    adapter = f"layertap.results.training.{module}"
    monkeypatch.delitem(sys.modules, adapter, raising=False)
    with pytest.raises(BackendMissingError, match=rf'pip install "layertap\[{module}'):
        getattr(store, use)()
