"""Ray on this machine, once for all tests here; by default with Keras on JAX."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import pytest
import ray

import layertap
from tests.support import faulty_data, object_proxy
from tests.support.processes import environment

# Workers import the packages `tests` and `layertap`.
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def s3(object_store):
    """A proxy of the object store for workers; it fails requests on demand."""
    with object_proxy.standing_before(object_store) as standing:
        yield standing


@pytest.fixture(scope="session", autouse=True)
def cluster(s3):
    """A cluster for four workers, which can import the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        paths = [environment()["PYTHONPATH"], str(ROOT)]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        # Else they wait for every other process of this machine.
        patch.setenv("RAY_worker_niceness", "0")
        options = {"include_dashboard": False, "log_to_driver": False}
        ray.init(address="local", num_cpus=4, **options)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def data(tmp_path):
    """Data that follow instructions."""
    folder = tmp_path / "data"
    folder.mkdir()
    return faulty_data.Faulty(folder)


@pytest.fixture(scope="session")
def model():
    return faulty_data.model()


@pytest.fixture(scope="session")
def local(model, tmp_path_factory):
    """The store of the same run, by one process without faults."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "data").mkdir()
    data = faulty_data.Faulty(folder / "data")
    path = folder / "local.zarr"
    layertap.save(model, data, path, **faulty_data.OPTIONS)
    return path
