"""Reports as JSON, which every parser reads."""

import json

import numpy as np
import pytest

import layertap
from layertap.cli import main, printing
from tests.support.command_files import succeeds, typed

pytestmark = pytest.mark.one_backend


def test_numbers_that_json_lacks_are_names(capsys):
    numbers = {"a": [np.inf, -np.inf, np.nan, 1.5], "b": {"c": float("nan"), "d": None}}
    printing.show(numbers)
    read = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert read == {
        "a": ["Infinity", "-Infinity", "NaN", 1.5],
        "b": {"c": "NaN", "d": None},
    }


def test_an_infinite_difference_is_valid_json(here):
    x = np.load("x.npz")["x"]
    x[3] = np.inf
    np.save("infinite.npy", x)
    for name in ("x", "infinite"):
        succeeds("save", "two.keras", f"{name}.npy", "-o", f"of_{name}.zarr")
    result = typed("diff", "of_x.zarr", "of_infinite.zarr", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (
        layertap.diff("of_x.zarr", "of_infinite.zarr").to_json().keys() == report.keys()
    )
    words = ("verify", "of_x.zarr", "--model", "two.keras", "--data", "infinite.npy")
    report = typed(*words, "--json").stdout
    json.loads(report, parse_constant=pytest.fail)
    assert '"largest": "Infinity"' in report


def test_every_command_that_prints_a_table_prints_json_too():
    # The others print a line about what they wrote or removed.
    lines = {"demo", "save", "export", "report", "clean"}
    for name, command in main.commands.items():
        options = {option.name for option in command.params}
        assert ("as_json" in options) == (name not in lines)
