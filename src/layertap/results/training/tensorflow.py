"""A store as a `tf.data.Dataset`."""

import itertools
from typing import Any

from layertap.core import tree
from layertap.core.optional import require
from layertap.results.training.batches import Batches

tf = require("tensorflow", "tensorflow", "`Saved.tf`")


def dataset(batches: Batches, *, drop_remainder: bool) -> Any:
    """Returns batches as a `tf.data.Dataset`; see `Saved.tf`.

    Each element of a Python generator costs TensorFlow much, so an element has many
    batches, which TensorFlow splits.
    """
    epochs = itertools.count()

    def spec(array: Any) -> Any:
        return tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype.name))

    signature = tree.mapped(spec, batches.examples.parts)
    data = tf.data.Dataset.from_generator(
        lambda: batches.pieces(next(epochs)), output_signature=signature
    )
    data = data.prefetch(1).rebatch(batches.size, drop_remainder=drop_remainder)
    data = data.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return data.prefetch(tf.data.AUTOTUNE)
