"""The works: models with branches, and data for them.

Models are built with the Keras that is handed in, for some peers have one of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Built:
    """A model, and its branches as its author knows them.

    Attributes:
        model: The model.
        branches: The addresses of its branches, with the tensor of each in the graph of
            the model; or with None where it has no such graph.
        by_hand: Computes the branches of a batch of tensors, in the same order; where
            the graph does not have them.
        layers: The names of the layers that make the branches, for peers that ask for
            layers; empty where they are not at the top level.
    """

    model: Any
    branches: dict[str, Any]
    by_hand: Callable[[Any], list[Any]] | None = None
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """A model with data.

    Attributes:
        title: What it is, in a few words.
        build: Builds the model with a Keras.
        shape: The shape of one row of its inputs.
        rows: How many rows there are.
        quick_rows: How many there are where only shape and sanity count.
        reduced: Whether maps are averaged over their places, within the pass.
        source: Where batches come from: `"arrays"`, or the backend's own `"loader"`.
        peers: The ways that are run besides floor, raw and save.
        rounds: How often each way is run, the slow ones less often.
        batch_size: Rows per batch.
    """

    title: str
    build: Callable[[Any], Built]
    shape: tuple[int, ...]
    rows: int
    quick_rows: int
    reduced: bool = False
    source: str = "arrays"
    peers: tuple[str, ...] = ("multi", "article", "h5py")
    rounds: int = 3
    batch_size: int = 32

    def data(self, rows: int) -> Array:
        """Returns `rows` rows of inputs; images are crops of two photographs."""
        if len(self.shape) < 3:
            random = np.random.default_rng(0)
            return random.standard_normal((rows, *self.shape), dtype="float32")
        return np.concatenate(list(crops(self.shape, rows, rows)))


def crops(shape: tuple[int, ...], rows: int, size: int) -> Iterator[Array]:
    """Yields batches of crops of scikit-learn's two photographs, numbers from 0 to 1.

    Args:
        shape: Of one crop: height, width, channels.
        rows: How many crops.
        size: How many in a batch.
    """
    from sklearn.datasets import load_sample_images

    height, width, channels = shape
    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    for start in range(0, rows, size):
        batch = np.empty((min(size, rows - start), *shape), "float32")
        for crop in batch:
            photograph = photographs[random.integers(len(photographs))]
            top = random.integers(photograph.shape[0] - height + 1)
            left = random.integers(photograph.shape[1] - width + 1)
            part = photograph[top : top + height, left : left + width, :channels]
            crop[...] = part / np.float32(255)
        yield batch


def _of_graph(model: Any, join: str, tensors: list[Any], *layers: str) -> Built:
    addresses = {f"{join}/in/{i}": tensor for i, tensor in enumerate(tensors)}
    return Built(model, addresses, layers=layers)


def article_dense(keras: Any, *units: int) -> Built:
    """The first and the third of the article's examples: dense branches."""
    x = keras.Input((10,))
    names = [f"branch{i}" for i in range(len(units))]
    branches = [
        keras.layers.Dense(n, activation="relu", name=name)(x)
        for n, name in zip(units, names, strict=True)
    ]
    merged = keras.layers.Concatenate(name="fusion")(branches)
    output = keras.layers.Dense(1, activation="sigmoid")(merged)
    return _of_graph(keras.Model(x, output), "fusion", branches, *names)


def article_conv(keras: Any) -> Built:
    """The second of the article's examples: two convolutional branches, flattened."""
    x = keras.Input((28, 28, 1))
    names = ["branch0", "branch1"]
    branches = []
    for filters, name in zip((32, 16), names, strict=True):
        maps = keras.layers.Conv2D(filters, 3, activation="relu")(x)
        maps = keras.layers.MaxPooling2D(2)(maps)
        branches.append(keras.layers.Flatten(name=name)(maps))
    merged = keras.layers.Concatenate(name="fusion")(branches)
    output = keras.layers.Dense(10, activation="softmax")(merged)
    return _of_graph(keras.Model(x, output), "fusion", branches, *names)


def trunk(keras: Any) -> Built:
    """Four vector branches on a shared convolutional trunk."""
    x = keras.Input((64, 64, 3))
    maps = x
    for filters in (32, 64, 128):
        maps = keras.layers.Conv2D(filters, 3, strides=2, activation="relu")(maps)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    names = [f"branch{i}" for i in range(4)]
    branches = [
        keras.layers.Dense(n, activation="relu", name=name)(pooled)
        for n, name in zip((128, 64, 32, 16), names, strict=True)
    ]
    merged = keras.layers.Concatenate(name="fusion")(branches)
    output = keras.layers.Dense(10, activation="softmax")(merged)
    return _of_graph(keras.Model(x, output), "fusion", branches, *names)


def maps(keras: Any) -> Built:
    """Two convolutional branches; 1 MiB of maps an image."""
    x = keras.Input((64, 64, 3))
    names = ["branch0", "branch1"]
    branches = [
        keras.layers.Conv2D(n, size, padding="same", activation="relu", name=name)(x)
        for n, size, name in zip((40, 24), (3, 5), names, strict=True)
    ]
    merged = keras.layers.Concatenate(name="fusion")(branches)
    pooled = keras.layers.GlobalAveragePooling2D()(merged)
    output = keras.layers.Dense(10, activation="softmax")(pooled)
    return _of_graph(keras.Model(x, output), "fusion", branches, *names)


def application(keras: Any, name: str, size: int) -> Built:
    """One of `keras.applications`, without downloaded weights."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    branches = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Concatenate):
            for i, tensor in enumerate(layer.input):
                branches[f"{layer.name}/in/{i}"] = tensor
    return Built(model, branches)


def nested(keras: Any) -> Built:
    """Two encoders, each a model with a join of its own, that meet in another."""

    def encoder(name: str, filters: int) -> tuple[Any, list[Any]]:
        x = keras.Input((32, 32, 3))
        branches = [
            keras.layers.Conv2D(filters, size, strides=2, padding="same")(x)
            for size in (3, 5)
        ]
        merged = keras.layers.Concatenate(name="scales")(branches)
        output = keras.layers.GlobalAveragePooling2D()(merged)
        return keras.Model(x, output, name=name), branches

    left, left_branches = encoder("left", 24)
    right, right_branches = encoder("right", 16)
    x = keras.Input((32, 32, 3))
    ends = [left(x), right(x)]
    met = keras.layers.Concatenate(name="fusion")(ends)
    model = keras.Model(x, keras.layers.Dense(10)(met))
    tensors = {
        **{f"left/scales/in/{i}": tensor for i, tensor in enumerate(left_branches)},
        **{f"right/scales/in/{i}": tensor for i, tensor in enumerate(right_branches)},
        **{f"fusion/in/{i}": tensor for i, tensor in enumerate(ends)},
    }
    parts = [
        keras.Model(left.inputs, [*left_branches, left.outputs[0]]),
        keras.Model(right.inputs, [*right_branches, right.outputs[0]]),
    ]

    def by_hand(batch: Any) -> list[Any]:
        (*scales, one), (*others, other) = (part(batch) for part in parts)
        return [*scales, *others, one, other]

    return Built(model, tensors, by_hand)


def subclassed(keras: Any) -> Built:
    """A model without a graph, which joins inside its `call`."""

    class TwoScales(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="two_scales")
            self.fine = keras.layers.Conv2D(24, 3, strides=2, padding="same")
            self.coarse = keras.layers.Conv2D(16, 5, strides=2, padding="same")
            self.pool = keras.layers.GlobalAveragePooling2D()
            self.head = keras.layers.Dense(10)

        def branches(self, x: Any) -> list[Any]:
            return [self.fine(x), self.coarse(x)]

        def call(self, x: Any) -> Any:
            return self.head(self.pool(keras.ops.concatenate(self.branches(x), -1)))

    model = TwoScales()
    model(np.zeros((1, 32, 32, 3), "float32"))
    addresses: dict[str, Any] = {"concatenate/in/0": None, "concatenate/in/1": None}
    return Built(model, addresses, model.branches)


def tiny(keras: Any) -> Built:
    """A small model: the costs of each batch dominate."""
    x = keras.Input((16,))
    names = ["branch0", "branch1"]
    branches = [
        keras.layers.Dense(n, activation="relu", name=name)(x)
        for n, name in zip((32, 16), names, strict=True)
    ]
    merged = keras.layers.Concatenate(name="fusion")(branches)
    return _of_graph(
        keras.Model(x, keras.layers.Dense(1)(merged)), "fusion", branches, *names
    )


_ALL = ("multi", "article", "h5py", "keract", "thingsvision")

WORKS = {
    "W1a": Work(
        "the article's first example: two dense branches",
        lambda keras: article_dense(keras, 64, 32),
        *((10,), 2048, 96),
        peers=(*_ALL, "predict"),
    ),
    "W1b": Work(
        "the article's second: two convolutional branches, flattened",
        article_conv,
        *((28, 28, 1), 2048, 96),
        peers=_ALL,
    ),
    "W1c": Work(
        "the article's third: three dense branches",
        lambda keras: article_dense(keras, 64, 32, 16),
        *((10,), 2048, 96),
        peers=_ALL,
    ),
    "W2": Work(
        "four vector branches on a convolutional trunk",
        trunk,
        *((64, 64, 3), 8192, 96),
        peers=(*_ALL, "predict"),
        rounds=5,
    ),
    "W3": Work(
        "two convolutional branches, 1 GiB of maps",
        maps,
        *((64, 64, 3), 1024, 64),
        rounds=5,
        peers=("multi", "article", "h5py"),
    ),
    "W4": Work(
        "InceptionV3, 50 branches, averaged over places",
        lambda keras: application(keras, "InceptionV3", 139),
        *((139, 139, 3), 384, 32),
        reduced=True,
        peers=("multi", "predict"),
    ),
    "W4 whole": Work(
        "InceptionV3, 50 branches, whole",
        lambda keras: application(keras, "InceptionV3", 139),
        *((139, 139, 3), 128, 32),
        peers=("multi", "h5py"),
    ),
    "W5": Work(
        "DenseNet121, 116 branches",
        lambda keras: application(keras, "DenseNet121", 128),
        *((128, 128, 3), 64, 32),
        peers=("multi",),
    ),
    "W6 nested": Work(
        "two nested encoders, 6 branches", nested, *((32, 32, 3), 2048, 96)
    ),
    "W6 subclassed": Work("a subclassed model", subclassed, *((32, 32, 3), 2048, 96)),
    "W7": Work(
        "W2's model, from `tf.data` or a `DataLoader`",
        trunk,
        *((64, 64, 3), 8192, 96),
        source="loader",
        peers=("predict",),
        rounds=5,
    ),
    "W8": Work(
        "a tiny dense model, 200,000 rows",
        tiny,
        *((16,), 200_000, 320),
        peers=("predict", "multi", "h5py"),
    ),
}
