"""Computes in 64 bits on every backend."""

from contextlib import nullcontext

import keras


def in_64_bits():
    """Returns a context in which JAX has 64 bits, which the others have anyway."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()
