"""The same gradients and attributions on three backends, within rounding."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from tests.support.processes import environment

# The others are started as programs.
pytestmark = pytest.mark.processes

PROGRAM = """
    import sys
    from tests.effects import test_backends_agree as t
    t.save(sys.argv[1])
"""


def save(path):
    x = keras.Input((8, 6), name="x")
    dense = [layers.Dense(n, name=f"d{n}")(x) for n in (3, 4, 5)]
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
    early = layers.Concatenate(name="early")(dense[:2])
    late = layers.Concatenate(name="late")([both(early), keras.ops.tanh(dense[2])])
    pooled = layers.GlobalAveragePooling1D()(late)
    model = keras.Model(x, layers.Dense(3, activation="softmax", name="head")(pooled))
    model.compile(loss="sparse_categorical_crossentropy")
    random = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.3)
    data = random.normal(size=(40, 8, 6)).astype("float32"), random.integers(0, 3, 40)
    return layertap.save(model, data, path, gradients="loss", attributions=1)


def test_they_agree(tmp_path):
    here = keras.backend.backend()
    paths = {}
    for backend in ("tensorflow", "jax", "torch"):
        paths[backend] = tmp_path / f"{backend}.zarr"
        if backend == here:
            save(paths[backend])
            continue
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(paths[backend])],
            env=environment(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3"),
            check=True,
            capture_output=True,
        )
    first = layertap.open(paths[here])
    assert len(first.gradients) == len(first.attributions) == 6
    for backend, path in paths.items():
        if backend != here:
            difference = layertap.diff(first, path)
            assert difference, difference
            assert difference.rows == (40, 40)
