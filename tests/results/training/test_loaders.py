"""Labels and weights, loaders of PyTorch, and data sets of TensorFlow."""

import sys

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import (
    BackendMissingError,
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

pytestmark = [
    pytest.mark.every_backend,
    # Addresses are not names of inputs.
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict"),
    # Keras and PyTorch's loader fork. The forked processes only read files.
    pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


BACKEND = keras.backend.backend()


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


def test_batches_of_many_branches_are_in_the_order_of_the_join(tmp_path):
    """As text, `in/10` comes before `in/2`."""
    import torch

    x = keras.Input((8,), name="x")
    branches = [layers.Rescaling(n + 1.0, name=f"times_{n}")(x) for n in range(12)]
    both = layers.Concatenate(name="fusion")(branches)
    built = keras.Model(x, layers.Dense(2, name="last")(both))
    data = numbers()[:9]
    truth = np.concatenate([data * (n + 1) for n in range(12)], 1)
    path = tmp_path / "v.zarr"
    saved = layertap.save(built, (data, np.ones((9, 2))), path, batch_size=4)
    loader = torch.utils.data.DataLoader(saved.torch(), batch_size=9)
    _, head = layertap.split(built)
    batches = {
        "capture": layertap.capture(built, data),
        "saved": {name: array[:] for name, array in saved.items()},
        "batches": next(saved.batches(9)),
        "before": layertap.open(path).before("fusion"),
        "dataset": saved.dataset()[0][0],
        "torch": next(iter(loader))[0],
        "tf": next(iter(saved.tf()))[0],
    }
    for way, batch in batches.items():
        joined = np.concatenate([np.asarray(array) for array in batch.values()], 1)
        np.testing.assert_allclose(joined, truth, rtol=1e-6, err_msg=way)
    for names in (saved.statistics, saved.to_json()["statistics"]):
        assert list(names) == [f"fusion/in/{n}" for n in range(12)]
    kernel, bias = (np.asarray(part) for part in built.get_layer("last").get_weights())
    expected = (((truth @ kernel + bias) - 1) ** 2).mean()
    head.compile("sgd", "mse")
    for batch in (saved.dataset(), *([saved.tf()] if BACKEND != "torch" else [])):
        np.testing.assert_allclose(head.evaluate(batch, verbose=0), expected, 1e-4)


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
    assert list(store.tf(labels=False).element_spec[0]) == [
        branch.address for join in store.plan.joins for branch in join.branches
    ]


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
