"""The commands that read a recording."""

import json

import keras
import numpy as np
import pytest

import layertap
from tests.support.command_files import succeeds

pytestmark = pytest.mark.one_backend


def test_a_recording_is_shown_as_a_table_as_json_and_as_a_page(here):
    model = keras.models.load_model("two.keras")
    model.compile("sgd", "mse")
    x = np.load("x.npz")["x"]
    recorder = layertap.Recorder(x, "run", before="fusion")
    model.fit(x, np.zeros((50, 1)), epochs=2, verbose=0, callbacks=[recorder])
    table = succeeds("show", "run")
    assert "2 steps from 2 to 4, finished" in table
    assert "fusion/in/1" in table
    shown = json.loads(succeeds("show", "run", "--json"))
    assert (shown["steps"], shown["epochs"]) == ([2, 4], {"2": 1, "4": 2})
    succeeds("report", "run", "-o", "run.html")
    assert "step 4, epoch 2: loss" in (here / "run.html").read_text("utf-8")
