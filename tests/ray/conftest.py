"""Ray on this machine, once for all tests here; Keras on JAX, if nothing is named."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import pytest
import ray


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Four workers, which import what the tests can import."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
