"""`layertap diff` tells other data from another model, and pairs renamed operations."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import layertap
from layertap.cli import main
from layertap.core.plan import Plan, Recipe
from layertap.core.tables import plain
from layertap.errors import AddressError, OptionError
from tests.support.diff_stores import ROWS, plan_of, store, values_of


@pytest.fixture
def one(tmp_path):
    return store(tmp_path / "one", plan_of(), values_of(plan_of()))


def command(*words):
    done = CliRunner().invoke(main, ["diff", *map(str, words)])
    return done.exit_code, done.output


DIGESTS = np.arange(ROWS, dtype="uint64")


def test_other_inputs_are_told_from_another_model(tmp_path):
    values = values_of(plan_of())
    weights = {"weights": "abc", "batch size": 8}
    one = store(tmp_path / "a", plan_of(), values, digests=DIGESTS, **weights)
    # The size of batches does not matter.
    other_size = weights | {"batch size": 10}
    same = store(tmp_path / "b", plan_of(), values, digests=DIGESTS, **other_size)
    report = layertap.diff(one, same)
    assert report.other_inputs == 0
    assert "All compared rows were computed from the same inputs." in plain(report)
    changed = np.where(np.isin(DIGESTS, [17, 18, 40]), 99, DIGESTS).astype("uint64")
    other = store(tmp_path / "c", plan_of(), values, digests=changed, **weights)
    report = layertap.diff(one, other)
    assert report.other_inputs == report.to_json()["other_inputs"] == 3
    shown = " ".join(plain(report).split())
    assert "3 rows were computed from other inputs" in shown
    assert "The weights are the same: the data differ." in shown
    assert layertap.diff(one, other, rows=18).other_inputs == 1
    trained = store(
        *(tmp_path / "d", plan_of(), values),
        digests=changed,
        **weights | {"weights": "def"},
    )
    assert "The weights are" not in plain(layertap.diff(one, trained))


def renamed(names):
    """The plan of two branches and its repetition, with other names of operations."""
    plan = plan_of()

    def rename(address):
        path, side = address.split("/", 1)
        return f"{names.get(path, path)}/{side}"

    joins = tuple(
        replace(
            join,
            path=names.get(join.path, join.path),
            branches=tuple(
                replace(
                    branch,
                    address=rename(branch.address),
                    alias_of=branch.alias_of and rename(branch.alias_of),
                )
                for branch in join.branches
            ),
        )
        for join in plan.joins
    )
    recipes = {rename("again/in/0"): Recipe((rename("fusion/in/0"),))}
    return Plan("m", joins, recipes=recipes)


NAMES = {"fusion": "merge/deep", "again": "merge_1"}


@pytest.mark.parametrize(
    "pairs",
    [
        NAMES,
        {"fusion/in": "merge/deep/in", "again/in/0": "merge_1/in/0"},
        {"fusion": "merge/deep", "fusion/in/1": "merge/deep/in/1", "again": "merge_1"},
    ],
)
def test_renamed_operations_are_paired(tmp_path, one, pairs):
    values = values_of(plan_of())
    values["fusion/in/1"][17, 1, 0] += 3
    moved = {
        name.replace("fusion", "merge/deep"): array for name, array in values.items()
    }
    other = store(tmp_path / "other", renamed(NAMES), moved)
    apart = layertap.diff(one, other)
    assert {compared.why for compared in apart.compared} == {"only in A", "only in B"}
    assert "Renamed operations can be paired" in plain(apart)
    report = layertap.diff(one, other, pairs=pairs)
    assert [(c.address, c.name_in_b, c.verdict) for c in report.compared] == [
        ("fusion/in/0", "merge/deep/in/0", "identical"),
        ("fusion/in/1", "merge/deep/in/1", "different"),
    ]
    assert report["fusion/in/1"].at == (17, 1, 0)
    assert report.alike == 1
    assert "B: merge/deep/in/1" in plain(report)
    back = {new: name for name, new in pairs.items()}
    assert len(layertap.diff(other, one, pairs=back).compared) == 2
    words = [word for pair in pairs.items() for word in ("--pair", *pair)]
    status, shown = command(one, other, *words)
    assert (status, "merge/deep/in/1" in shown) == (1, True)


def test_names_may_be_exchanged(tmp_path, one):
    plan = renamed({"fusion": "again", "again": "fusion"})
    values = {
        name.replace("fusion", "again"): array
        for name, array in values_of(plan_of()).items()
    }
    other = store(tmp_path / "other", plan, values)
    assert not layertap.diff(one, other)
    assert layertap.diff(one, other, pairs={"fusion": "again", "again": "fusion"})


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ({"fusoin": "fusion"}, AddressError, r"'fusoin'. Did you mean 'fusion"),
        ({"fusion": "merge"}, AddressError, "'merge'"),
        ({"fus*": "fusion"}, AddressError, "fus"),
        ({"again": "fusion"}, OptionError, "two values one name"),
        ({"fusion": "again", "again": "again"}, OptionError, "two values one name"),
        (["fusion"], OptionError, "`pairs` is invalid"),
        ({"fusion": 3}, OptionError, "`pairs` is invalid"),
    ],
)
def test_unusable_pairs_are_refused(one, pairs, error, message):
    with pytest.raises(error, match=message):
        layertap.diff(one, one, pairs=pairs)
