"""The benchmark suite works: every way gives its figures, and what is saved is right.

How fast anything is, is no matter here.
"""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import keras
import pytest

ROOT = Path(__file__).parents[2]
BACKEND = keras.backend.backend()
KINDS = {"sequential batches", "shuffled batches", "random rows", "one row", "opening"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a quick run has left its results."""
    folder = tmp_path_factory.mktemp("benchmarks")
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--backends", BACKEND),
            *("--json", folder / "results.json", "--report", folder / "report"),
        ],
        cwd=ROOT,
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_each_way_that_can_be_gone_has_its_figures(results):
    assert set(results["works"]) == {"W2", "W6 nested", "W7"}
    for name, by_backend in results["works"].items():
        ways = by_backend[BACKEND]["ways"]
        for way, found in ways.items():
            if name == "W6 nested" and way in ("multi", "article", "h5py"):
                # No model can be made of branches that are inside another one.
                assert "not connected" in found["first"]["error"]
                continue
            assert found["runs"]
            for run in (found["first"], *found["runs"]):
                assert 0 < run["wall"] < 60
                assert 0 <= run["after"] <= run["wall"]
                kept = way not in ("floor", "predict")
                assert (run["bytes"] > 0, run["files"] > 0) == (kept, kept)
        # Four branches, each in a plain file; six in the nested model.
        branches = 6 if name == "W6 nested" else 4
        assert ways["raw"]["runs"][0]["files"] == branches


def test_what_is_saved_is_what_a_model_by_hand_gives(results):
    for by_backend in results["works"].values():
        one = by_backend[BACKEND]
        assert one["apart"] < 1e-5
        assert one["rows"] == 96
        assert one["on_disk"] > one["naive"] > 0


def test_reading_is_measured_on_one_backend(results):
    reading = results["works"]["W2"][BACKEND]["reading"]
    if BACKEND != "tensorflow":
        assert reading is None
        return
    assert set(reading) == KINDS
    assert all(0 < s < 60 for pairs in reading.values() for pair in pairs for s in pair)


def test_the_report_tells_of_all(folder, results):
    text = (folder / "report/performance.md").read_text()
    assert "Its times mean nothing" in text
    assert results["command"] in text
    tables = [line for line in text.splitlines() if line.startswith("| W")]
    for name in results["works"]:
        # Time, and what it costs besides.
        assert sum(line.startswith(f"| {name}") for line in tables) >= 2
    assert f"save / floor, compute-bound: W2, {BACKEND}" in text
    for chart in ("performance-time.svg", "performance-memory.svg"):
        assert f"({chart})" in text
        drawn = ElementTree.parse(folder / "report" / chart).getroot()
        words = " ".join(drawn.itertext())
        assert "save" in words
