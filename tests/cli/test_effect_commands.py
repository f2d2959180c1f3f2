"""The command line: options for gradients and attributions."""

import json

import keras
import numpy as np
import pytest

import layertap
from tests.support.command_files import fails, succeeds

pytestmark = pytest.mark.one_backend


def test_gradients_and_attributions(here, tmp_path):
    store, effects = tmp_path / "v.zarr", ("--gradients", "loss", "--attributions", 0)
    plan = json.loads(succeeds("plan", "compiled.keras", "--json", *effects))
    assert (
        plan["bytes_per_row"]
        == 3 * json.loads(succeeds("plan", "compiled.keras", "--json"))["bytes_per_row"]
    )
    words = ("save", "compiled.keras", "x.npz", "-o", store, "--quiet")
    succeeds(*words, *effects, "--baseline", "mean", "--steps", 8)
    saved = layertap.open(store)
    assert (saved.plan.gradients_of, saved.plan.attributions_of) == ("loss", "0")
    assert saved.plan.steps == 8
    model, x = keras.models.load_model("two.keras"), np.load("x.npz")
    model.set_weights(
        keras.models.load_model("compiled.keras", compile=False).get_weights()
    )
    model.compile(loss="mse")
    gradients = layertap.tap(model).gradients(x["x"], "loss", y=x["labels"])
    for name, gradient in gradients.items():
        np.testing.assert_allclose(saved.gradients[name][:], gradient, rtol=1e-5)
    table = succeeds("show", store)
    assert "fusion/in_gradient/0" in table
    assert "gradients of the loss" in table
    verify = ("verify", store, "--model", "compiled.keras", "--data", "x.npz")
    assert "finite differences" in succeeds(*verify)
    other = (*words, "--overwrite", "--gradients", "sources:first")
    succeeds(*other)
    assert "Pass it as --gradients." in fails(2, *verify)
    succeeds(*verify, "--gradients", "sources:first")
    assert "Expected 'loss', the index" in fails(2, *other[:-1], "sum")
    assert "not compiled with a loss" in fails(
        2, "save", "two.keras", "x.npz", "-o", tmp_path / "w", *effects
    )
