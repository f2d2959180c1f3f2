"""What tests of all folders share."""

import pytest

import object_proxy
import object_store as stores


@pytest.fixture(scope="session")
def object_store():
    """An object store that layertap finds by the environment."""
    with stores.serving() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in stores.environment(store).items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def proxy(object_store, monkeypatch):
    """What layertap finds in place of the object store; it does harm when told to."""
    with object_proxy.standing_before(object_store) as standing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", standing.endpoint)
        yield standing
