"""Ray on this machine, once for all tests here; Keras on JAX, if nothing is named."""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import pytest
import ray

import layertap
from tests.support import faulty_data, object_proxy

# Workers import the packages `tests` and `layertap`.
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def s3(object_store):
    """What workers find in place of the object store; it does harm when told to."""
    with object_proxy.standing_before(object_store) as standing:
        yield standing


@pytest.fixture(scope="session", autouse=True)
def cluster(s3):
    """Room for four workers, which import what the tests can import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        )
        options = {"include_dashboard": False, "log_to_driver": False}
        ray.init(address="local", num_cpus=4, **options)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def data(tmp_path):
    """Data that are told what to do."""
    folder = tmp_path / "data"
    folder.mkdir()
    return faulty_data.Faulty(folder)


@pytest.fixture(scope="session")
def model():
    return faulty_data.model()


@pytest.fixture(scope="session")
def local(model, tmp_path_factory):
    """The store of the same, by one process that nothing happened to."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "data").mkdir()
    data = faulty_data.Faulty(folder / "data")
    path = folder / "local.zarr"
    layertap.save(model, data, path, **faulty_data.OPTIONS)
    return path
