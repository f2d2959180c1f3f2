"""Batches of the same rows, from every kind of stream."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch

from layertap.tracing.model_structure import InputSpec

ROWS, SIZE = 23, 5


ONE = InputSpec("x", (None, 3), "float32")


TWO = [ONE, InputSpec("ids", (None, 2), "int32")]


X = np.arange(ROWS * 3, dtype="float32").reshape(ROWS, 3)


IDS = np.arange(ROWS * 2, dtype="int32").reshape(ROWS, 2)


Y = np.arange(ROWS)


WEIGHTS = np.linspace(0, 1, ROWS, dtype="float32")


def cut(*arrays: Any, size: int = SIZE) -> list[Any]:
    """Cuts arrays into batches by hand."""
    starts = range(0, len(arrays[0]), size)
    return [tuple(array[i : i + size] for array in arrays) for i in starts]


class Batches(keras.utils.PyDataset):
    """A data set of batches; later batches are made faster than the first."""

    def __init__(self, batches: list[Any], **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        for _ in range(20_000 // (index + 1)):
            pass
        return self.batches[index]


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index], WEIGHTS[index]


class Repeatable:
    """An iterable that starts again each time."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Once(Repeatable):
    """An iterable that returns the same iterator each time."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


TRIPLES = cut(X, Y, WEIGHTS)


STREAMS: dict[str, Callable[[], Any]] = {
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(SIZE),
    "tf.data of unknown length": lambda: tf.data.Dataset.from_generator(
        lambda: iter(TRIPLES),
        output_signature=(
            tf.TensorSpec((None, 3), "float32"),
            tf.TensorSpec((None,), "int64"),
            tf.TensorSpec((None,), "float32"),
        ),
    ),
    "DataLoader": lambda: torch.utils.data.DataLoader(Rows(), batch_size=SIZE),
    "PyDataset": lambda: Batches(TRIPLES),
    "PyDataset of 3 workers": lambda: Batches(TRIPLES, workers=3),
    "PyDataset of a queue of 1": lambda: Batches(TRIPLES, workers=3, max_queue_size=1),
    "generator": lambda: (triple for triple in TRIPLES),
    "iterator": lambda: iter(TRIPLES),
    "iterable": lambda: Repeatable(TRIPLES),
    "iterable to be read once": lambda: Once(TRIPLES),
    "batches of several sizes": lambda: iter(
        [(X[a:b], Y[a:b], WEIGHTS[a:b]) for a, b in ((0, 1), (1, 18), (18, 23))]
    ),
    "empty batches between": lambda: iter(
        [(X[a:b], Y[a:b], WEIGHTS[a:b]) for a, b in ((0, 0), (0, 9), (9, 9), (9, 23))]
    ),
    "backend tensors": lambda: (
        tuple(map(keras.ops.convert_to_tensor, triple)) for triple in TRIPLES
    ),
}
