"""A real notebook is executed; its displays are tables, which a browser shows."""

import os
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.pages.test_facts import made
from tests.pages.test_report import HOSTILE
from tests.support.export_stores import ROWS

CELLS = [
    "import layertap\nsaved = layertap.open({path!r})\nsaved",
    "saved.plan",
    "saved['fusion/in/0']",
    "saved.statistics",
    "next(saved.batches(8))",
    "layertap.diff(saved, saved)",
    "saved.plot('fusion/in/0')",
]


SAVE = """
import keras
import numpy as np

import layertap
x = keras.Input((4,))
branches = [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)]
model = keras.Model(x, keras.layers.Concatenate(name="fusion")(branches))
saved = layertap.save(model, np.zeros((70, 4), "float32"), {path!r})
"""


def executed(cells, monkeypatch):
    """Executes a notebook, and returns the outputs of each cell."""
    # What is imported here can be imported there, Matplotlib too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    saved, _ = made(
        tmp_path,
        ids=[f"{HOSTILE[row % 4]}{row}" for row in range(ROWS)],
        labels=np.arange(ROWS) % 4,
        class_names=HOSTILE[:4],
    )
    cells = [code.format(path=saved.path) for code in CELLS]
    return [shown[-1].data for shown in executed(cells, monkeypatch)]


@pytest.mark.processes
@pytest.mark.slow
def test_a_save_shows_its_last_state_and_nothing_else(tmp_path, monkeypatch):
    cells = [SAVE.format(path=str(tmp_path / "values.zarr"))]
    (outputs,) = executed(cells, monkeypatch)
    # Backends write to standard error, too.
    (shown,) = [one for one in outputs if one.output_type == "display_data"]
    assert not any("layertap" in one.text for one in outputs if "text" in one)
    assert "saving 2 values: 70 of 70 rows" in shown.data["text/plain"]
    assert '<progress value="70" max="70">' in shown.data["text/html"]


@pytest.mark.slow
def test_displays_of_a_notebook_are_shown_and_run_nothing(outputs, browser):
    *tables, figure = outputs
    assert figure["image/png"]
    complaints = []
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    for shown in tables:
        assert shown["text/plain"]
        page.set_content(shown["text/html"])
        assert page.locator(".layertap").is_visible()
        assert page.locator("script, iframe, h1").count() == 0
    page.set_content(tables[0]["text/html"])
    text = page.locator(".layertap").inner_text()
    assert f"{ROWS}" in text
    assert HOSTILE[0] in text
    page.set_content(tables[1]["text/html"])
    assert page.locator("td", has_text="fusion/in/1").count() >= 1
    assert complaints == []
