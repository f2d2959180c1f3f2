"""Two equal saves have equal bits; other batches differ only by rounding."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from tests.support.campaign import share
from tests.support.processes import environment

pytestmark = pytest.mark.every_backend

PROGRAM = """
    import sys
    import layertap
    from tests.pipeline import test_capture_determinism as t
    layertap.save(t.convolutions(), t.images(), sys.argv[1], batch_size=16)
"""


def convolutions():
    keras.utils.set_random_seed(4)
    x = keras.Input((16, 16, 3), name="x")
    left = layers.Conv2D(24, 3, activation="relu", name="left")(x)
    left = layers.GlobalAveragePooling2D(name="pooled")(layers.Conv2D(48, 3)(left))
    right = layers.Dense(64, activation="tanh", name="right")(layers.Flatten()(x))
    joined = layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, layers.Dense(2, name="head")(joined), name="convolutions")


def images(rows=100):
    return np.random.default_rng(6).normal(size=(rows, 16, 16, 3)).astype("float32")


def save_elsewhere(path):
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path)],
        # It compiles for itself.
        env=environment(JAX_ENABLE_COMPILATION_CACHE="0"),
        check=True,
        capture_output=True,
    )
    return layertap.open(path)


@pytest.mark.campaign(alone=True)
def test_the_same_save_in_two_processes_gives_the_same_bits(tmp_path):
    one = layertap.save(convolutions(), images(), tmp_path / "a.zarr", batch_size=16)
    other = save_elsewhere(tmp_path / "b.zarr")
    assert one.identity == other.identity
    for address in (*one.reader.paths,):
        first, second = (s.reader.array(address)[:] for s in (one, other))
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("batch_size", share(2, [7, 1, 33, 100]))
def test_other_batches_are_within_rounding_of_the_same_model(tmp_path, batch_size):
    model, x = convolutions(), images()
    one = layertap.save(model, x, tmp_path / "a.zarr", batch_size=16)
    other = layertap.save(model, x, tmp_path / "b.zarr", batch_size=batch_size)
    for address in one:
        # Sums of some hundred products: rounding changes a few of the last bits.
        near = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(one[address][:], other[address][:], **near)
    report = layertap.verify(one, model, x, batch_size=batch_size, rows=None)
    assert report, report
    assert {check.verdict for check in report.checks} <= {
        "identical",
        "within rounding",
    }


@pytest.mark.parametrize("part", share(2, [1e-3, 1, 1e-2]))
def test_another_weight_is_not_rounding(tmp_path, part):
    model, x = convolutions(), images()
    saved = layertap.save(model, x, tmp_path / "v.zarr", batch_size=16)
    kernel = model.get_layer("right").kernel
    kernel.assign(kernel * (1 + part))
    for batch_size in (16, 7):
        report = layertap.verify(saved, model, x, batch_size=batch_size)
        verdicts = {check.address: check.verdict for check in report.checks}
        assert verdicts["fusion/in/1"] == "different"
        assert verdicts["fusion/in/0"] in ("identical", "within rounding")
        assert not report
