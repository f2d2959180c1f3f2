"""A save uses the distribution over devices that the user sets in Keras."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import layertap
from tests.support import devices
from tests.support.campaign import share
from tests.support.processes import environment

pytestmark = pytest.mark.every_backend

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(
    BACKEND != "jax",
    reason=f"Keras distributes on JAX alone: on {BACKEND} `keras.distribution` moves "
    "nothing, in `predict` either",
)
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow",
    reason=f"`tf.distribute` is TensorFlow's, and Keras runs on {BACKEND}",
)


def run(program, path, **variables):
    """Runs a program in its own process, since a process counts its devices once."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        env=environment(**variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_four_devices(what, path, *arguments):
    program = f"""
        import pathlib, sys
        from tests.support import devices
        devices.{what}(pathlib.Path(sys.argv[1]), *{arguments})
    """
    return run(program, path, XLA_FLAGS="--xla_force_host_platform_device_count=4")


@pytest.fixture(scope="module")
def captured():
    """The values that one device computes."""
    return layertap.capture(devices.two_inputs(), devices.rows())


def assert_saved(path, captured):
    """Asserts that a store is complete, with the values that one device computes."""
    saved = layertap.open(path)
    assert (saved.rows, saved.complete) == (devices.ROWS, True)
    assert layertap.verify(saved)
    for address, values in captured.items():
        near = {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(saved[address][:], values, **near)


def assert_verified(path):
    """Asserts that one device computes again what several have saved."""
    model, data = devices.two_inputs(), devices.rows()
    options = {"batch_size": devices.BATCH, "rows": None}
    report = layertap.verify(layertap.open(path), model, data, **options)
    assert report, report


# Of 32 rows and of 6, which can't be divided among four devices.
PARTS = {
    "data_parallel": [8, 6],
    "model_parallel": [16, 3],
    "made_before": [8, 6],
    "out_of_scope": [32, 6],
}


@on_jax
@pytest.mark.parametrize("number", share(2, [2, 4]))
def test_batches_are_spread_over_the_devices(number, tmp_path, captured):
    expected = dict(list(PARTS.items())[:number])
    found = json.loads(on_four_devices("save", tmp_path, list(expected)))
    parts = {
        name: [part for _, (part, _) in batches] for name, batches in found.items()
    }
    assert parts == expected
    for name in parts:
        assert_saved(tmp_path / name, captured)
    assert_verified(tmp_path / "data_parallel")


@on_jax
@pytest.mark.campaign(alone=True)
def test_a_save_resumes_with_more_devices(tmp_path, captured):
    path = tmp_path / "v.zarr"
    half = devices.batches(2 * devices.BATCH)
    with pytest.raises(RuntimeError, match="the data stopped"):
        layertap.save(devices.two_inputs(), half, path)
    assert layertap.open(path).rows == 2 * devices.BATCH
    on_four_devices("resume", path)
    assert_saved(path, captured)


@on_jax
@pytest.mark.campaign(alone=True)
def test_a_save_resumes_with_fewer_devices(tmp_path, captured):
    path = tmp_path / "v.zarr"
    on_four_devices("stop", path)
    assert layertap.open(path).rows == 2 * devices.BATCH
    layertap.save(devices.two_inputs(), devices.batches(), path)
    assert_saved(path, captured)


MIRRORED = """
    import sys
    import keras
    import numpy as np
    import tensorflow as tf
    import layertap

    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        x = keras.Input((4,), name="x")
        dense = keras.layers.Dense(3, name="dense")(x)
        model = keras.Model(x, keras.layers.Concatenate(name="fusion")([dense, x]))
    data = np.random.default_rng(8).normal(size=(70, 4)).astype("float32")
    saved = layertap.save(model, data, sys.argv[1])
    assert layertap.verify(saved, model, data, rows=None)
    expected = model.predict(data, verbose=0)
    near = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(saved["fusion/in/0"][:], expected[:, :3], **near)
"""


@on_tensorflow
def test_a_mirrored_model_is_saved_like_any_other(tmp_path):
    run(MIRRORED, tmp_path / "v.zarr")
