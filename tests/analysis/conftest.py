"""A store whose branches matter as is known. Its imports are made when it is."""

import pytest


@pytest.fixture(scope="package")
def saved(tmp_path_factory):
    from tests.support.importance_models import save

    return save(tmp_path_factory.mktemp("importance") / "v.zarr")
