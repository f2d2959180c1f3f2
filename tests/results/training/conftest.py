"""A store to train on. What it imports is imported when it is made."""

import pytest


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from tests.support.trained import make_store

    return make_store(tmp_path_factory.mktemp("store") / "v.zarr")


@pytest.fixture(scope="module")
def truth():
    """The branches, by a model for each."""
    from tests.support.trained import true_values

    return true_values()
