"""The backend's own functions under common names, and a model that calls them."""

from functools import partial

import keras
import numpy as np

from tests.support.elsewhere import Towers

__all__ = [
    "MAXIMUM",
    "NAME",
    "STACK",
    "Calling",
    "compiled",
    "concatenate",
    "data",
    "einsum",
    "gelu",
    "hstack",
    "loop",
    "maximum",
    "native_module",
    "pad",
    "stack",
]

match keras.backend.backend():
    case "tensorflow":
        import tensorflow as tf
        from tensorflow import concat as concatenate

        NAME = "tf.concat"
        STACK, MAXIMUM = "tf.stack", "tf.maximum"
        stack, maximum, gelu = tf.stack, tf.maximum, tf.nn.gelu
        hstack = tf.experimental.numpy.hstack
        compiled = tf.function
        einsum = tf.einsum
        native_module = tf

        def pad(x):
            return tf.pad(x, [[0, 0], [1, 1]], mode="REFLECT")

        def loop(body, x):
            return tf.while_loop(
                lambda i, x: i < 3, lambda i, x: (i + 1, body(x)), (0, x)
            )[1]

    case "jax":
        import jax
        import jax.numpy as jnp
        from jax.numpy import concatenate

        NAME = "jnp.concatenate"
        STACK, MAXIMUM = "jnp.stack", "jnp.maximum"
        stack, maximum, gelu = jnp.stack, jnp.maximum, jax.nn.gelu
        hstack = jnp.hstack
        compiled = jax.jit
        einsum = jnp.einsum
        native_module = jnp

        def pad(x):
            return jnp.pad(x, ((0, 0), (1, 1)), mode="reflect")

        def loop(body, x):
            return jax.lax.fori_loop(0, 3, lambda i, x: body(x), x)

    case "torch":
        import torch
        from torch import cat as concatenate

        NAME = "torch.cat"
        STACK, MAXIMUM = "torch.stack", "torch.maximum"
        stack, maximum, gelu = torch.stack, torch.maximum, torch.nn.functional.gelu
        hstack = torch.hstack
        # PyTorch runs eagerly: functions inside a model are not compiled separately.
        compiled = staticmethod
        einsum = torch.einsum
        native_module = torch

        def pad(x):
            return torch.nn.functional.pad(x, (1, 1), mode="reflect")

        def loop(body, x):
            for _ in range(3):
                x = body(x)
            return x


class Calling(Towers):
    """Two dense towers, and a function of the model, its input and their outputs."""

    def __init__(self, function):
        super().__init__()
        self.function = partial(function, self)

    def call(self, x):
        return self.function(x, self.left(x), self.right(x))


def data(rows=5):
    """Returns rows of input for `Towers`."""
    return np.random.default_rng(7).normal(size=(rows, 6)).astype("float32")
