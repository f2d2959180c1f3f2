"""What tests of all folders share."""

import pytest

import object_store as stores


@pytest.fixture(scope="session")
def object_store():
    """An object store that layertap finds by the environment."""
    with stores.serving() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in stores.environment(store).items():
            patch.setenv(name, value)
        yield store
