"""The joins of a page: shares of branches, and nested models folded."""

from types import SimpleNamespace

import numpy as np
import pytest

import layertap
from layertap.core.plan import Branch, Join, Plan
from layertap.errors import OptionError
from layertap.pages.facts import page_facts
from layertap.pages.flow import flow, strips
from tests.pages.test_facts import made
from tests.pages.test_report import Page


def branch(loss, address):
    change = SimpleNamespace(mean=loss)
    return SimpleNamespace(address=address, permuted={"loss": change})


def importance_of(*losses):
    """Importance as `layertap.importance` returns it, of as many branches."""
    found = [branch(loss, f"fusion/in/{n}") for n, loss in enumerate(losses)]
    return SimpleNamespace(branches=found)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [((3.0, 1.0), [0.75, 0.25]), ((2.0, -0.1), [1, 0]), ((0.0, -1.0), [np.nan] * 2)],
)
def test_importance_is_shared_among_branches(tmp_path, losses, expected):
    saved, _ = made(tmp_path)
    rises = {f"fusion/in/{n}": loss for n, loss in enumerate(losses)}
    (join,) = page_facts(saved, rises=rises).joins
    np.testing.assert_array_equal(join.importance, expected)
    *_, strip = strips(join)
    assert strip.name == "importance"
    assert [part.width for part in strip.parts] == list(np.nan_to_num(expected))


def test_a_page_has_the_importance_that_was_measured(tmp_path):
    saved, _ = made(tmp_path)
    path = tmp_path / "page.html"
    layertap.report(saved, path, importance=importance_of(3.0, 1.0))
    text = Page(path.read_text("utf-8")).text
    assert "fusion/in/0: 75% of the importance" in text
    layertap.report(saved, path, importance=importance_of(3.0), overwrite=True)
    assert "of the importance" not in Page(path.read_text("utf-8")).text


@pytest.mark.parametrize("importance", [3, {"fusion/in/0": 1.0}, importance_of()])
def test_importance_of_something_else_is_refused(tmp_path, importance):
    saved, _ = made(tmp_path)
    with pytest.raises(OptionError, match="`importance=` has no branch of"):
        layertap.report(saved, tmp_path / "page.html", importance=importance)


def test_joins_of_a_nested_model_are_together(tmp_path):
    def join(path):
        parts = tuple(
            Branch(f"{path}/in/{n}", f"part{n}", (None, 2), "float32") for n in (0, 1)
        )
        return Join(path, "concatenate", 1, (None, 4), "float32", parts)

    paths = ["see/a", "see/b/c", "middle", "read/a", "fusion"]
    saved, _ = made(tmp_path, Plan("nested", tuple(map(join, paths))))
    found = flow(page_facts(saved), 4)
    shown = [(nested, [join["path"] for join in joins]) for nested, joins in found]
    assert shown == [
        ("see", ["see/a", "see/b/c"]),
        ("", ["middle"]),
        ("read", ["read/a"]),
    ]
