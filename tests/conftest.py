"""Shared by all tests: which of them run together, compiled code, an object store."""

import functools
import gc
import os
import re
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

# Before they are imported: their assertions say what differs.
pytest.register_assert_rewrite("tests.support")

from tests.support import campaign, object_proxy  # noqa: E402
from tests.support import object_store as stores  # noqa: E402

# Tests, and the processes that they start, compile most of JAX's code once.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Keras imports these wherever they are, and never uses them here.
UNUSED = ("matplotlib", "sklearn")
sys.modules |= dict.fromkeys(UNUSED)

# A busy machine is no failure.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

KINDS = ("every_backend", "one_backend", "processes", "ray", "no_backend")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--needs",
        action="append",
        default=[],
        choices=KINDS,
        help="Run the tests of this kind; can be repeated.",
    )
    parser.addoption(
        "--campaigns",
        action="store_true",
        help="Run all of each campaign, and nothing else: see tests/support/campaign.",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before a test is imported, since campaigns are parameters of tests.
    campaign.WHOLE = config.getoption("campaigns")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Before a file or a `conftest.py` is imported: tests that need no backend run
    # without one.
    needs = config.getoption("needs")
    if collection_path.is_dir():
        files = list(collection_path.rglob("test_*.py"))
    else:
        files = [collection_path] if collection_path.match("test_*.py") else []
    if not needs or not files:
        return None
    return all(kinds_in(file).isdisjoint(needs) for file in files) or None


@functools.cache
def kinds_in(file: Path) -> set[str]:
    """Returns the kinds that the text of a file of tests names."""
    text = file.read_text()
    kinds = set(re.findall(r"pytest\.mark\.(\w+_backend|processes|ray)\b", text))
    if "one_in(" in text:
        kinds.add("one_backend")
    if "@everywhere" in text:
        kinds.add("processes")
    if not kinds or not re.search(r"^pytestmark\b", text, re.MULTILINE):
        kinds.add("no_backend")
    return kinds


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    # A test's own mark goes before that of its file.
    needs = config.getoption("needs") or KINDS
    chosen = [i for i in items if kind_of(i) in needs and of_campaign(i, config)]
    config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
    items[:] = chosen


def of_campaign(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether a test belongs to this session: one of campaigns, or one of the suite."""
    marks = list(item.iter_markers("campaign"))
    if config.getoption("campaigns"):
        return bool(marks)
    # A class can be marked, and a test in it, too.
    return not any(mark.kwargs.get("alone") for mark in marks)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # What is imported stays. To look for garbage in it takes a third of the time.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_finish() -> None:
    # Some tests use them.
    for name in UNUSED:
        sys.modules.pop(name)


def kind_of(item: pytest.Item) -> str:
    marks = [mark.name for mark in item.iter_markers() if mark.name in KINDS]
    return marks[0] if marks else "no_backend"


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


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Counts how often Python runs a pass of a model."""
    from layertap.tracing import collect

    counted: list[object] = []
    run = collect.collect

    def count(*args: object, **kwargs: object) -> object:
        counted.append(args)
        return run(*args, **kwargs)

    monkeypatch.setattr(collect, "collect", count)
    return counted
