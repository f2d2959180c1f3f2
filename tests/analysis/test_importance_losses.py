"""Importance with any loss that `fit` takes, and with rows that have no finite loss."""

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import DataError, OptionError
from tests.support.campaign import everywhere
from tests.support.importance_models import (
    ROWS,
    WEIGHTS,
    command,
    head,
    inputs,
    model,
)

pytestmark = pytest.mark.every_backend


def own_loss(y: Any, output: Any) -> Any:
    """The mean absolute error, weighted by hand."""
    return 3.0 * keras.ops.mean(keras.ops.abs(y - output), axis=-1)


@everywhere
@pytest.mark.parametrize("structure", ["function", "list", "dict"])
def test_a_loss_of_the_users_own_is_that_of_evaluate(tmp_path, structure):
    x = keras.Input((3,), name="x")
    joined = layers.Concatenate(name="fusion")([layers.Dense(2, name="a")(x), x])
    names = ["one"] if structure == "function" else ["one", "two"]
    outputs = [layers.Dense(1, name=name)(joined) for name in names]
    whole = keras.Model(x, outputs if len(outputs) > 1 else outputs[0])
    y = [np.full((ROWS, 1), number, "float32") for number in range(len(names))]
    w = np.linspace(0, 2, ROWS).astype("float32")
    weights = w if structure == "function" else [w, w[::-1].copy()]
    targets = y[0] if structure == "function" else y
    layertap.save(whole, (inputs(), targets, weights), tmp_path / "v.zarr")
    _, made = layertap.split(whole)
    made.compile(
        loss={
            "function": own_loss,
            "list": [own_loss, lambda y, output: own_loss(y, output) / 3],
            "dict": {"two": own_loss, "one": "mse"},
        }[structure],
        loss_weights=None if structure == "function" else [2.0, 0.5],
        weighted_metrics=[] if structure == "function" else [["mae"], ["mae"]],
    )
    report = layertap.importance(tmp_path / "v.zarr", made, repeats=1, batch_size=ROWS)
    values = layertap.capture(whole, inputs())
    before = np.concatenate([values["fusion/in/0"], values["fusion/in/1"]], axis=1)
    apart = []
    for name, target in zip(names, y, strict=True):
        kernel, bias = (np.asarray(v) for v in made.get_layer(name).get_weights())
        apart.append((target - before @ kernel - bias)[:, 0].astype("float64"))
    size = [np.abs(apart[0]), *map(np.abs, apart[1:])]
    expected = {
        "function": lambda: (3 * size[0] * w).mean(),
        "list": lambda: 2 * (3 * size[0] * w).mean() + 0.5 * (size[1] * w[::-1]).mean(),
        "dict": lambda: (
            2 * (size[0] ** 2 * w).mean() + 0.5 * (3 * size[1] * w[::-1]).mean()
        ),
    }[structure]()
    assert report.metrics["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Rows 5 and 60 have no finite values, row 7 has no label."""
    x = inputs()
    x[5, 1], x[60, 0] = np.nan, np.inf
    y = np.zeros((ROWS, 1), "float32")
    y[7] = np.nan
    path = tmp_path_factory.mktemp("broken") / "v.zarr"
    return layertap.save(model(), (x, y), path)


def test_rows_without_a_finite_loss_are_left_out_and_named(broken):
    report = layertap.importance(broken, head(), loss="mse", repeats=1)
    assert report.left_out == (5, 7, 60)
    assert report.rows == ROWS - 3
    kept = np.delete(np.arange(ROWS), [5, 7, 60])
    same = layertap.importance(broken, head(), loss="mse", repeats=1, rows=kept)
    assert same.left_out == ()
    output = 2 * inputs()[kept].astype("float64") @ WEIGHTS
    assert report.metrics["loss"] == pytest.approx((output**2).mean(), rel=1e-5)
    assert report.branches[0].permuted == same.branches[0].permuted
    assert report.redundancy["fusion"][0][1] == pytest.approx(
        same.redundancy["fusion"][0][1]
    )
    # A kernel has zeros, too.
    assert [(b.inf, b.nan) for b in report.branches] == [(1, 1), (0, 4)]
    shown = " ".join(str(report).split())
    assert "Left out: 3 rows with NaN or infinite numbers" in shown
    assert "without a finite loss: 5, 7, 60." in shown
    assert report.to_json()["left_out"] == [5, 7, 60]


@everywhere
def test_what_can_not_be_evaluated_is_refused(saved):
    def broken(y: Any, output: Any) -> Any:
        raise KeyError("my loss is broken")

    for options, problem in (
        ({"loss": broken}, "my loss is broken"),
        ({"loss": "mse", "metrics": ["maa"]}, "maa"),
    ):
        with pytest.raises(OptionError, match=f"can't be evaluated.*{problem}"):
            layertap.importance(saved, head(), **options)


@pytest.mark.one_backend
def test_the_error_of_a_complete_subclassed_model_says_to_pass_its_head(saved):
    class Complete(keras.Model):
        def call(self, x):
            return x["image"]

    with pytest.raises(OptionError, match="pass the head") as raised:
        layertap.importance(saved, Complete(), loss="mse")
    assert "\x1b" not in str(raised.value)


@pytest.mark.one_backend
def test_a_loss_of_the_users_own_may_accept_nan(broken):
    def of_known(y: Any, output: Any) -> Any:
        known = keras.ops.isfinite(y) & keras.ops.isfinite(output)
        apart = keras.ops.where(known, y, 0.0) - keras.ops.where(known, output, 0.0)
        return keras.ops.mean(apart**2, axis=-1)

    report = layertap.importance(broken, head(), loss=of_known, repeats=1)
    assert report.left_out == ()
    assert report.rows == ROWS


@pytest.mark.one_backend
def test_a_loss_that_is_never_finite_is_refused(saved):
    def infinite(y: Any, output: Any) -> Any:
        return keras.ops.mean(output, axis=-1) * float("inf")

    with pytest.raises(DataError, match="Expected a finite loss"):
        layertap.importance(saved, head(), loss=infinite, repeats=1)


@keras.saving.register_keras_serializable("importance")
def registered_loss(y: Any, output: Any) -> Any:
    return 2.0 * keras.ops.mean((y - output) ** 2, axis=-1)


LOSSES = {
    "name": ("mse", 1),
    "object": (keras.losses.MeanSquaredError(reduction="sum"), ROWS),
    "function": (registered_loss, 2),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_loss_of_a_model_file_is_found(saved, tmp_path, kind, suffix):
    loss, factor = LOSSES[kind]
    whole = model()
    whole.set_weights([*whole.get_weights()[:2], 2 * WEIGHTS])
    whole.compile("adam", loss, metrics=["mae"])
    path = tmp_path / f"m.{suffix}"
    whole.save(path)
    words = ("importance", saved.path, path, "--repeats", 1, "--branches", "b")
    ended = command(*words, "--json")
    assert ended.exit_code == 0, ended.output
    data = json.loads(ended.stdout)
    apart = 2 * inputs().astype("float64") @ WEIGHTS
    assert data["metrics"]["loss"] == pytest.approx(
        factor * (apart**2).mean(), rel=1e-4
    )
    assert data["metrics"]["mae"] == pytest.approx(np.abs(apart).mean(), rel=1e-4)
    assert [branch["made_by"] for branch in data["branches"]] == ["b"]


@pytest.mark.one_backend
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_unknown_loss_of_a_model_file_is_named(saved, tmp_path, suffix):
    def unknown(y: Any, output: Any) -> Any:
        return y - output

    whole = model()
    whole.compile("adam", unknown)
    whole.save(tmp_path / f"m.{suffix}")
    ended = command("importance", saved.path, tmp_path / f"m.{suffix}")
    assert ended.exit_code == 2
    assert "can't be restored" in ended.stderr
    assert "unknown" in ended.stderr
    assert "--import" in ended.stderr
    assert ended.stderr.count("\n") == 1
    passed = (*("--loss", "mse"), "--repeats", 1)
    ended = command("importance", saved.path, tmp_path / f"m.{suffix}", *passed)
    assert ended.exit_code == 0, ended.output
