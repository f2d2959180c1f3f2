"""What is proven to compute each row alone does so; what mixes rows is never proven."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from keras import layers

from layertap.tracing.backends.row_flow import RowFlow

pytestmark = pytest.mark.every_backend

if keras.backend.backend() != "jax":
    pytest.skip("Only JAX compiles for each shape", allow_module_level=True)

FEWER, MORE = 3, 8
X = np.random.default_rng(4).normal(size=(MORE, 4, 6)).astype("float32")
TABLE = np.random.default_rng(5).normal(size=(6, 5)).astype("float32")


def proven(function, x=X):
    traces = (jax.make_jaxpr(function)(x[:rows]) for rows in (FEWER, MORE))
    return RowFlow((FEWER, MORE)).independent(*traces, [0])


def scanned(x):
    """Sums along the first axis, in a loop."""
    return lax.scan(lambda total, y: (total + y, total), jnp.zeros(x.shape[1:]), x)


def steps(x):
    total, parts = scanned(x.swapaxes(0, 1))
    return [total, parts.swapaxes(0, 1)]


def counted(x):
    return lax.while_loop(lambda y: jnp.sum(y) > 1, lambda y: y / 2, jnp.abs(x))


ALONE = {
    "elementwise": lambda x: jnp.where(x > 0, jnp.tanh(x), 2 * x) + TABLE[:, 0],
    "activations": lambda x: jax.nn.gelu(jax.nn.silu(jax.nn.relu(x))),
    "normalized": lambda x: (
        (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
    ),
    "softmax": jax.nn.softmax,
    "product": lambda x: x @ TABLE,
    "product from the left": lambda x: jnp.einsum("cd,nsc->dns", TABLE, x).swapaxes(
        0, 1
    ),
    "products of pairs": lambda x: x @ x.swapaxes(1, 2),
    "reshaped": lambda x: x.reshape(len(x), 2, 12),
    "transposed": lambda x: x.transpose(2, 0, 1).swapaxes(0, 1),
    "flattened, split": lambda x: jnp.split(x.reshape(len(x), -1), 3, axis=1),
    "joined": lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=2),
    "stacked": lambda x: jnp.stack([x, -x], axis=1),
    "padded": lambda x: jnp.pad(x, [(0, 0), (1, 2), (0, 0)]),
    "a part": lambda x: x[:, 1:, ::2],
    "a part by index": lambda x: lax.dynamic_slice_in_dim(x, jnp.int32(1), 2, 1),
    "chosen columns": lambda x: x[:, :, jnp.array([0, 3])],
    "rows of a table": lambda x: jnp.asarray(TABLE)[jnp.argmax(x, 2)],
    "one of many": lambda x: jax.nn.one_hot(jnp.argmax(x, 2), 6),
    "backwards, sorted": lambda x: jnp.sort(jnp.flip(x, 1), 2),
    "sums of earlier": lambda x: jnp.cumsum(x, 1),
    "pooled": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID"
    ),
    "convolution": lambda x: lax.conv_general_dilated(
        x, jnp.ones((3, 6, 2)), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    ),
    "in a loop": steps,
    "positions": lambda x: x + jnp.arange(len(x), dtype="float32")[:, None, None],
    "one way of two": lambda x: lax.cond(TABLE.sum() > 0, jnp.sin, jnp.cos, x),
    "compiled apart": lambda x: jax.jit(jax.checkpoint(jnp.tanh))(x),
}
MIXED = {
    "mean of the rows": lambda x: x - x.mean(0),
    "number of rows": lambda x: x / len(x),
    "ones of the data": lambda x: x / jnp.ones_like(x).sum(0),
    "backwards": lambda x: x[::-1],
    "the last row": lambda x: x - x[-1],
    "sums of earlier rows": lambda x: jnp.cumsum(x, 0),
    "sorted rows": lambda x: jnp.sort(x, 0),
    "greatest row": lambda x: x + jnp.argmax(x, 0),
    "products of rows": lambda x: jnp.einsum("nsc,msc->nm", x, x),
    "rows as channels": lambda x: x.transpose(1, 2, 0) @ jnp.ones((len(x), 2)),
    "folded into places": lambda x: x.reshape(-1, 6),
    "unfolded otherwise": lambda x: x.reshape(4, len(x), 6).swapaxes(0, 1),
    "rows joined": lambda x: jnp.concatenate([x[1:], x[:1]]),
    "rows in a loop": lambda x: scanned(x)[1],
    "until all are small": counted,
    "convolution of rows": lambda x: jnp.convolve(x[:, 0, 0], jnp.ones(3), "same"),
    "a constant of so many rows": lambda x: (
        x * np.linspace(0, 1, len(x))[:, None, None]
    ),
    "another way for few": lambda x: jnp.sin(x) if len(x) < 5 else jnp.cos(x),
    "another number for few": lambda x: x + (1 if len(x) < 5 else 2),
    "random": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "a token": lambda x: (lax.create_token(x), x)[1],
    "unique indices": lambda x: (
        jnp.asarray(TABLE).at[jnp.argmax(x, 2)].get(unique_indices=True)
    ),
    "rows moved": lambda x: x.swapaxes(0, 1),
    "no rows": lambda x: jnp.ones(3),
    "way by the data": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
}


# Whose indices JAX 0.4 computes with the number of rows.
COUNTED = {"a part by index", "recurrent"}
OLD = jax.__version_info__ < (0, 5)


def provable(cases):
    reason = "JAX 0.4 computes indices with the number of rows"
    skipped = pytest.mark.skipif(OLD, reason=reason)
    return [
        pytest.param(name, marks=[skipped] if name in COUNTED else []) for name in cases
    ]


@pytest.mark.parametrize("name", provable(ALONE))
def test_rows_alone_are_proven_and_are_alone(name):
    assert proven(ALONE[name])
    fewer, more = jax.tree.map(np.asarray, [ALONE[name](X[:FEWER]), ALONE[name](X)])
    for one, other in zip(*map(jax.tree.leaves, (fewer, more)), strict=True):
        np.testing.assert_allclose(other[:FEWER], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_mixed_rows_are_not_proven(name):
    assert not proven(MIXED[name])


STEPS = [
    jnp.tanh,
    lambda x: x[::-1],
    lambda x: x - x.sum(0),
    lambda x: x @ jnp.asarray(TABLE) @ jnp.asarray(TABLE).T,
    lambda x: x.swapaxes(0, 1),
    lambda x: x.reshape(x.shape[1], x.shape[0], 6),
    lambda x: x.reshape(x.shape[0] * x.shape[1], 1, 6),
    lambda x: jnp.cumsum(x, 1),
    lambda x: jnp.sort(x, 0),
    lambda x: x + jnp.max(x, 1, keepdims=True),
    lambda x: jnp.flip(x, 1),
    lambda x: x / x.shape[1],
    lambda x: jnp.concatenate([x, x[:, :1]], 1),
    lambda x: jnp.roll(x, 1, 0),
    lambda x: jnp.einsum("abc,abd->acd", x, x),
    steps,
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5))
def test_what_is_proven_of_random_programs_holds(chosen):
    def program(x):
        for step in chosen:
            x = jax.tree.leaves(step(x))[-1]
        return x

    try:
        right = proven(program)
    except TypeError:  # The steps do not fit each other.
        return
    if right:
        one, other = map(np.asarray, (program(X[:FEWER]), program(X)))
        np.testing.assert_allclose(other[:FEWER], one, rtol=1e-3, atol=1e-3)


LAYERS = {
    "attention": lambda x: layers.MultiHeadAttention(2, 4, name="a")(
        x, x, use_causal_mask=True
    ),
    "layer normalization": layers.LayerNormalization(name="n"),
    "batch normalization": layers.BatchNormalization(name="n"),
    "group normalization": layers.GroupNormalization(2, name="n"),
    "recurrent": layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="l"),
    "convolution": layers.SeparableConv1D(3, 2, name="c"),
    "transposed convolution": layers.Conv1DTranspose(3, 2, name="c"),
    "each step": layers.TimeDistributed(layers.Dense(3), name="t"),
    "average": layers.AveragePooling1D(2, padding="same", name="p"),
    "resized": lambda x: layers.Resizing(5, 5)(layers.Reshape((4, 6, 1))(x)),
}


@pytest.mark.parametrize("name", provable(LAYERS))
def test_layers_of_keras_are_proven(name):
    x = keras.Input((4, 6), name="x")
    model = keras.Model(x, LAYERS[name](x))
    assert proven(lambda x: model(x, training=False))
