"""A store as a `tf.data.Dataset`."""

import itertools
from collections.abc import Iterator
from typing import Any

from layertap.core import tree
from layertap.core.optional import require
from layertap.results.training.batches import Batches

tf = require("tensorflow", "tensorflow", "`Saved.tf`")


def dataset(batches: Batches, *, drop_remainder: bool) -> Any:
    """Returns batches as a `tf.data.Dataset`, as `Saved.tf` describes it.

    A Python generator costs TensorFlow much for each element, so it gives many batches
    in one, which are cut by TensorFlow.

    Args:
        batches: The batches.
        drop_remainder: Whether all have the same number of rows.
    """
    epochs = itertools.count()

    def pieces() -> Iterator[tuple[Any, ...]]:
        return batches.pieces(next(epochs))

    def spec(array: Any) -> Any:
        return tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype.name))

    signature = tree.mapped(spec, batches.examples.arrays)
    found = tf.data.Dataset.from_generator(pieces, output_signature=signature)
    found = found.prefetch(1).rebatch(batches.size, drop_remainder=drop_remainder)
    found = found.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return found.prefetch(tf.data.AUTOTUNE)
