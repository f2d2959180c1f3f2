"""Importance of branches: changes of loss that follow from the head's weights."""

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import AddressError, DataError, ModelError, OptionError
from tests.support.importance_models import (
    ROWS,
    WEIGHTS,
    command,
    head,
    inputs,
    model,
)

pytestmark = pytest.mark.every_backend


def test_changes_of_loss_are_those_by_hand(saved):
    report = layertap.importance(
        saved, head(), loss="mse", metrics=["mae"], repeats=40, batch_size=20
    )
    assert (report.rows, report.repeats) == (ROWS, 40)
    assert report.metrics["loss"] == pytest.approx(0, abs=1e-9)
    branches = 2 * inputs().astype("float64")
    # The part of the output that each branch makes, row by row.
    parts = [branches[:, :1] @ WEIGHTS[:1], branches[:, 1:] @ WEIGHTS[1:]]
    for branch, part in zip(report.branches, parts, strict=True):
        assert branch.zeroed["loss"] == pytest.approx((part**2).mean(), rel=1e-4)
        assert branch.averaged["loss"] == pytest.approx(part.var(), rel=1e-4)
        assert branch.zeroed["mae"] == pytest.approx(np.abs(part).mean(), rel=1e-4)
        # The expected squared difference of two random rows.
        expected = 2 * part.var()
        change = branch.permuted["loss"]
        assert change.mean == pytest.approx(expected, rel=0.1)
        assert 0 < change.spread < expected / 2
    assert report.ranked[0].address == "fusion/in/0"


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased estimator of Song et al. (2007), term by term."""
    n = len(k)
    k, m = (gram.astype("float64") * (1 - np.eye(n)) for gram in (k, m))
    product = k @ m
    terms = (
        np.trace(product),
        k.sum() * m.sum() / ((n - 1) * (n - 2)),
        -2 * product.sum() / (n - 2),
    )
    return sum(terms) / (n * (n - 3))


def test_shares_dead_units_and_similarity(saved):
    report = layertap.importance(saved, head(), loss="mse", repeats=1)
    a, b = report.branches
    assert (a.made_by, b.made_by) == ("a", "b")
    assert (a.width_share, b.width_share) == (1 / 3, 2 / 3)
    squares = (2 * inputs().astype("float64")) ** 2
    assert a.norm_share == pytest.approx(squares[:, 0].sum() / squares.sum())
    assert (a.dead, a.units, b.dead, b.units) == (0, 1, 1, 2)
    assert (a.nan, a.inf, b.nan, b.inf) == (0, 0, 0, 0)
    k, m = (part @ part.T for part in (inputs()[:, :1], inputs()[:, 1:]))
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert report.redundancy["fusion"][0][1] == pytest.approx(expected, rel=1e-4)
    assert np.isnan(a.permuted["loss"].spread)


def test_the_same_seed_gives_the_same(saved):
    def run(seed: int) -> float:
        report = layertap.importance(saved, head(), loss="mse", repeats=2, seed=seed)
        return report.branches[1].permuted["loss"].mean

    assert run(1) == run(1) != run(2)


def test_passed_rows_and_labels(saved):
    half = np.arange(ROWS) % 2 == 0
    ones = np.ones((ROWS, 1), "float32")
    report = layertap.importance(
        saved, head(), loss="mse", rows=half, labels=ones, repeats=1
    )
    assert report.rows == ROWS // 2
    output = 2 * inputs()[half].astype("float64") @ WEIGHTS
    assert report.metrics["loss"] == pytest.approx(((output - 1) ** 2).mean(), rel=1e-4)
    without_b = 2 * inputs()[half, :1].astype("float64") @ WEIGHTS[:1]
    expected = ((without_b - 1) ** 2).mean() - report.metrics["loss"]
    assert report.branches[1].zeroed["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_users_head_accepts_the_join_as_one_array(saved):
    own = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
    own.set_weights([WEIGHTS])
    report, theirs = (
        layertap.importance(saved, each, loss="mse", repeats=1)
        for each in (own, head())
    )
    for one, other in zip(report.branches, theirs.branches, strict=True):
        assert one.zeroed["loss"] == pytest.approx(other.zeroed["loss"], rel=1e-5)


def test_weights_of_samples_count(tmp_path):
    x, w = inputs(), np.linspace(0, 1, ROWS).astype("float32")
    y = np.zeros((ROWS, 1), "float32")
    path = tmp_path / "weighted.zarr"
    layertap.save(model(), (x, y, w), path)
    report = layertap.importance(path, head(), loss="mse", repeats=1, batch_size=ROWS)
    whole = head()
    whole.compile(loss="mse")
    values = layertap.capture(model(), x)
    expected = whole.evaluate(
        {name: values[name] for name in values},
        *(y, ROWS),
        sample_weight=w,
        verbose=0,
    )
    assert report.metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_outputs_of_a_head_keep_their_names(tmp_path):
    x = keras.Input((3,), name="x")
    joined = layers.Concatenate(name="fusion")([layers.Dense(2)(x), x])
    outputs = [layers.Dense(1, name=name)(joined) for name in ("one", "two")]
    both = keras.Model(x, outputs)
    y = [np.zeros((ROWS, 1), "float32"), np.ones((ROWS, 1), "float32")]
    layertap.save(both, (inputs(), y), tmp_path / "v.zarr")
    _, made = layertap.split(both)
    made.compile(loss={"one": "mse", "two": "mae"})
    report = layertap.importance(tmp_path / "v.zarr", made, repeats=1)
    assert set(report.metrics) == {"loss", "one_loss", "two_loss"}
    assert sum(report.metrics.values()) == pytest.approx(2 * report.metrics["loss"])


def test_the_head_stays_as_it_is(saved):
    whole = model()
    whole.compile("adam", "mse", metrics=["mae"])
    _, made = layertap.split(whole)
    made.compile("adam", "mse", metrics=["mae"])
    weights = made.get_weights()
    report = layertap.importance(saved, made, repeats=1)
    assert list(report.metrics) == ["loss", "mae"]
    for before, after in zip(weights, made.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_reports_as_data(saved):
    report = layertap.importance(saved, head(), loss="mse", repeats=1)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["branches"][0]["permuted"]["loss"]["spread"] is None
    first, second = report.records()
    assert first.keys() == second.keys()
    assert first["loss_zeroed"] == report.branches[0].zeroed["loss"]
    assert not any(isinstance(value, dict) for value in first.values())
    assert "fusion/in/0" in str(report)
    assert "<table>" in report._repr_html_()


def test_unusable_options_and_stores_are_refused(saved, tmp_path):
    with pytest.raises(OptionError, match="was not compiled with a loss"):
        layertap.importance(saved, head())
    with pytest.raises(OptionError, match="Keras does not know this"):
        layertap.importance(saved, head(), loss="mes")
    with pytest.raises(OptionError, match="at least 2"):
        layertap.importance(saved, head(), loss="mse", rows=slice(1))
    with pytest.raises(OptionError, match="at least 1"):
        layertap.importance(saved, head(), loss="mse", repeats=0)
    for options in ({"batch_size": 0}, {"seed": -1}, {"rows": [ROWS]}):
        with pytest.raises(OptionError):
            layertap.importance(saved, head(), loss="mse", **options)
    with pytest.raises(OptionError, match="need a loss"):
        layertap.importance(saved, head(), metrics=["mae"])
    with pytest.raises(DataError, match="one entry for each"):
        layertap.importance(saved, head(), loss="mse", labels=np.ones(ROWS - 1))
    wide = keras.Sequential([keras.Input((7,)), layers.Dense(1)])
    with pytest.raises(AddressError, match="pass the head"):
        layertap.importance(saved, wide, loss="mse")
    only = layertap.save(model(), (inputs(), inputs()), tmp_path / "o", outputs="a")
    with pytest.raises(AddressError, match="only outputs"):
        layertap.importance(only, keras.Sequential([layers.Dense(1)]), loss="mse")
    bare = layertap.save(model(), inputs(), tmp_path / "bare.zarr")
    with pytest.raises(DataError, match="has no labels"):
        layertap.importance(bare, head(), loss="mse")
    skipped = keras.Input((3,), name="x")
    a = layers.Dense(2, name="a")(skipped)
    joined = layers.Concatenate(name="fusion")([a, skipped])
    other = keras.Model(skipped, layers.Add()([layers.Dense(2)(joined), a]))
    _, wants = layertap.split(other)
    few = layertap.save(model(), (inputs(), inputs()), tmp_path / "f", outputs="a")
    with pytest.raises(AddressError, match="needs fusion/in/0, fusion/in/1") as raised:
        layertap.importance(few, wants, loss="mse")
    assert "for_head=True" in str(raised.value)


def test_on_the_command_line(saved, tmp_path):
    whole = model()
    whole.compile("adam", "mse")
    whole.save(tmp_path / "m.keras")
    ended = command("importance", saved.path, tmp_path / "m.keras", "--json")
    assert ended.exit_code == 0, ended.output
    data = json.loads(ended.stdout)
    expected = layertap.importance(saved, head(), loss="mse").to_json()
    assert data["metrics"] == pytest.approx(expected["metrics"])
    assert data["branches"][0]["zeroed"] == pytest.approx(
        expected["branches"][0]["zeroed"], rel=1e-5
    )
    table = command(
        *("importance", saved.path, tmp_path / "m.keras"),
        *("--loss", "mse", "--metric", "mae", "--repeats", "1", "--rows", "10:50"),
    )
    assert table.exit_code == 0, table.output
    assert "40 rows" in table.stdout
    assert "fusion/in/1" in table.stdout
    assert "mae" in table.stdout
    wrong = command("importance", saved.path, tmp_path / "m.keras", "--loss", "mes")
    assert wrong.exit_code == 2
    assert "Keras does not know this" in wrong.stderr
    wrong = command("importance", saved.path, tmp_path / "m.keras", "--rows", "a")
    assert wrong.exit_code == 2
    assert "expected START:STOP" in wrong.stderr


@pytest.mark.one_backend
def test_chosen_branches_have_the_figures_of_all(saved):
    report = layertap.importance(saved, head(), loss="mse", repeats=2)
    for globs in ("b", ["fusion/in/1"], ["*/1", "b"]):
        chosen = layertap.importance(
            saved, head(), loss="mse", repeats=2, branches=globs
        )
        assert chosen.branches == report.branches[1:]
        assert chosen.redundancy == {"fusion": ((pytest.approx(1),),)}
        assert "fusion/in/0" not in str(chosen)
    with pytest.raises(AddressError, match="No branch of this model matches 'fusoin"):
        layertap.importance(saved, head(), loss="mse", branches="fusoin/in/0")


def test_each_evaluation_reads_what_it_needs_once(saved, monkeypatch):
    seen = []
    original = keras.Model.test_on_batch

    def test_on_batch(self: Any, *batch: Any, **options: Any) -> Any:
        seen.append([tuple(array.shape) for array in keras.tree.flatten(batch)])
        return original(self, *batch, **options)

    monkeypatch.setattr(keras.Model, "test_on_batch", test_on_batch)
    done = []
    layertap.importance(
        *(saved, head()),
        loss="mse",
        repeats=2,
        batch_size=16,
        progress=lambda rows, written: done.append((rows, written)),
    )
    # Both branches are one matrix, whose number of columns is theirs; and the labels.
    assert seen == [[(16, 3), (16, 1)]] * 9 * (ROWS // 16)
    assert done == [(number * ROWS, 0) for number in range(1, 10)]


@pytest.mark.one_backend
def test_the_bar_counts_rows_and_nothing_written(saved, capsys):
    layertap.importance(saved, head(), loss="mse", repeats=1, progress=True)
    shown = capsys.readouterr().err
    assert "permuting branches" in shown
    assert f"{7 * ROWS} of {7 * ROWS} rows" in shown
    assert "written" not in shown


@pytest.mark.one_backend
@pytest.mark.parametrize("store", [None, 7, ["a"], b"path", {}])
def test_anything_but_saved_values_or_a_path_is_refused(saved, store):
    for call in (
        lambda: layertap.importance(store, head(), loss="mse"),
        lambda: layertap.verify(store),
        lambda: layertap.open(store),
    ):
        with pytest.raises(OptionError, match="Expected a string or a path"):
            call()
    with pytest.raises(ModelError, match=r"Expected a keras\.Model"):
        layertap.importance(saved, "head.keras", loss="mse")
