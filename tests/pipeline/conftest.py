"""A save without faults, to compare with, and saves whose progress is known."""

import pytest


@pytest.fixture
def one_batch_ahead(monkeypatch):
    """Begins one batch at a time, so that the number in progress is known."""
    monkeypatch.setattr("layertap.pipeline.prefetch._MANY", 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Saves a store without any fault."""
    from tests.support.faulty_save import save

    path = tmp_path_factory.mktemp("undisturbed") / "v"
    save(path)
    return path
