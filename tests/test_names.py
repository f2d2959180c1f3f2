"""The exported names of `layertap`, and the modules that using them imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import layertap

NAMES = [
    "Difference",
    "Importance",
    "LayertapError",
    "Plan",
    "Recorder",
    "Recording",
    "Report",
    "Saved",
    "Tap",
    "Values",
    "capture",
    "diff",
    "export",
    "grad_cam",
    "images",
    "importance",
    "open",
    "plan",
    "report",
    "save",
    "split",
    "submodels",
    "tap",
    "verify",
]


def test_the_exported_names():
    assert sorted(layertap.__all__) == NAMES
    assert dir(layertap) == NAMES
    for name in NAMES:
        assert getattr(layertap, name).__name__ == name


def test_type_checkers_see_a_use_of_each_name():
    uses = ast.parse(Path(__file__).with_name("typed_uses.py").read_text("utf-8"))
    used = {
        node.attr
        for node in ast.walk(uses)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "layertap"
    }
    assert {*NAMES, "__version__"} - used == set()


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="'layertap' has no attribute 'sav'"):
        layertap.sav  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        "layertap",
        "layertap.open",
        "layertap.diff",
        "layertap.Difference",
        "layertap.export",
        "layertap.Plan",
        "layertap.Recording",
        "layertap.Values",
        "layertap.LayertapError",
    ],
)
def test_reading_needs_neither_keras_nor_a_backend(use):
    script = f"import sys, layertap; {use}; print(*sorted(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ended.stdout.split())
    assert "layertap" in loaded
    assert not loaded & {"keras", "tensorflow", "jax", "torch"}
