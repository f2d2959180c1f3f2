"""What all tests share: which of them run together, and an object store."""

import re
from pathlib import Path

import pytest

# Before they are imported: their assertions say what differs.
pytest.register_assert_rewrite("tests.support")

from tests.support import object_proxy  # noqa: E402
from tests.support import object_store as stores  # noqa: E402

KINDS = ("every_backend", "one_backend", "ray", "no_backend")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--needs", choices=KINDS, help="Run the test files of this kind.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Before the file is imported: tests that need no backend run without one.
    needs = config.getoption("needs")
    if needs is None or not collection_path.match("test_*.py"):
        return None
    marked = re.search(
        r"pytest\.mark\.(\w+_backend|ray)\b", collection_path.read_text()
    )
    return (marked[1] if marked else "no_backend") != needs or None


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
