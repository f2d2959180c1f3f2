"""A store to train on, and the true values of its branches."""

import keras
import numpy as np
from keras import layers

import layertap

ROWS, BATCH = 400, 32


# Blocks of fewer than a hundred rows.
SMALL = 3 * 2**14


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


def make_store(path):
    """Saves the model's values, labels and weights, in several blocks."""
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


def true_values():
    """Computes the branches, by a model for each."""
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
