"""The command that makes a page about a store."""

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import layertap
from tests.support.command_files import fails, succeeds, typed

pytestmark = pytest.mark.one_backend

IMAGES = np.random.default_rng(0).uniform(size=(12, 5, 4)).astype("float32")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model of images, its data, and a store, to work in."""
    monkeypatch.chdir(tmp_path)
    x = keras.Input((5, 4), name="image")
    model = keras.Model(x, keras.layers.Flatten(name="flat")(x))
    model.save("m.keras")
    others = {"labels": np.arange(12), "ids": [f"no {n}" for n in range(12)]}
    others["notes"] = np.array(["not an input"] * 12)
    np.savez("x.npz", image=IMAGES, **others)
    np.save("x.npy", IMAGES)
    np.save("other.npy", IMAGES + 1)
    np.save("few.npy", IMAGES[:3])
    succeeds("save", "m.keras", "x.npz", "-o", "v.zarr", "--outputs", "flat")
    return tmp_path


def test_the_inputs_of_the_store_are_shown(folder):
    layertap.report("v.zarr", "same.html", inputs={"image": IMAGES})
    line = succeeds("report", "v.zarr", "-o", "a.html", "--inputs", "x.npz")
    assert line.startswith("a.html: ")
    assert Path("a.html").read_bytes() == Path("same.html").read_bytes()
    succeeds("report", "v.zarr", "-o", "b.html", "--inputs", "x.npy")
    layertap.report("v.zarr", "same.html", inputs=IMAGES, overwrite=True)
    assert Path("b.html").read_bytes() == Path("same.html").read_bytes()
    assert "inputs of no 0" in Path("b.html").read_text("utf-8")
    succeeds("report", "v.zarr", "-o", "b.html", "--overwrite")
    assert "inputs of" not in Path("b.html").read_text("utf-8")


def test_columns_of_labels_and_ids_have_the_names_of_the_save(folder):
    named = {"kind": np.arange(12), "name": np.array(["a"] * 12)}
    np.savez("named.npz", image=IMAGES, **named)
    columns = ("--labels", "kind", "--ids", "name")
    chosen = ("--outputs", "flat", *columns)
    succeeds("save", "m.keras", "named.npz", "-o", "n.zarr", *chosen)
    data = ("n.zarr", "-o", "a.html", "--inputs", "named.npz")
    succeeds("report", *data, *columns)
    assert "inputs/image of a" in Path("a.html").read_text("utf-8")


def test_errors_are_lines_in_the_words_of_the_command(folder):
    def line(data):
        return fails(2, "report", "v.zarr", "-o", "a.html", "--inputs", data)

    assert "Error: --inputs differs from the inputs of v.zarr in row 0." in line(
        "other.npy"
    )
    assert "Error: --inputs does not match the store." in line("few.npy")
    assert "gone.npy is not supported as data." in line("gone.npy")
    (folder / "images").mkdir()
    Image.new("L", (4, 5)).save(folder / "images" / "a.png")
    assert "is a folder of images" in line("images")
    assert not Path("a.html").exists()


def test_help_names_the_options():
    shown = typed("report", "--help").stdout
    for option in ("--output", "--against", "--inputs", "--overwrite"):
        assert option in shown
