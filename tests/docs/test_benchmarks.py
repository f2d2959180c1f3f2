"""The benchmark suite works: every way gives figures, and the saved values are right.

Speed does not matter here.
"""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.one_backend, pytest.mark.campaign(alone=True)]

ROOT = Path(__file__).parents[2]
# Reading is measured on it alone.
BACKEND = "tensorflow"
KINDS = {"sequential batches", "shuffled batches", "random rows", "one row", "opening"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a quick run has left its results."""
    folder = tmp_path_factory.mktemp("benchmarks")
    _run("--json", folder / "results.json", "--report", folder / "report")
    return folder


def _run(*arguments):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--backends", BACKEND]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True)


def _pages(folder):
    names = ("performance.md", "performance-details.md")
    return "".join((folder / name).read_text("utf-8") for name in names)


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
    assert set(reading) == KINDS
    assert all(0 < s < 60 for pairs in reading.values() for pair in pairs for s in pair)


def test_one_more_call_is_measured_in_each_way(results):
    found = results["calls"][BACKEND]["W8"]
    assert set(found) == {"capture", "tap", "on batch", "by hand", "first"}
    assert set(found["first"]) == {"capture", "predict"}
    ways = [found[way] for way in set(found) - {"first"}]
    assert all(len(way) == 2 for way in ways)
    for seconds in (*ways, *found["first"].values()):
        assert all(0 < one < 60 for one in seconds)


def test_epochs_of_training_are_measured_in_each_way(results):
    found = results["training"][BACKEND]
    ways = {"memory", "dataset", "images"}
    assert set(found) == ways | {"tf"}
    for epochs in found.values():
        assert len(epochs) == 1
        assert 0 < epochs[0]["seconds"] < 60
        # Of ten classes, of which nothing is to be known.
        assert abs(epochs[0]["loss"] - math.log(10)) < 1


def test_pages_are_measured_on_one_backend(results):
    assert set(results["pages"]) == {"jax"}
    assert set(results["pages"]["jax"]) == {"digits"}
    found = results["pages"]["jax"]["digits"]
    assert found["values"] == 2
    # 384 numbers of 32 bits a row.
    assert found["store"] > 1797 * 384 * 4
    assert 10_000 < found["page"] < 2_000_000
    seconds = [found["writing"]]
    if shutil.which("chromium") or shutil.which("chromium-browser"):
        seconds.append(found["opening"])
    else:
        assert found["opening"] is None
    assert all(len(one) == 1 and 0 < one[0] < 60 for one in seconds)


def test_a_part_measured_by_itself_is_put_in_place_of_the_earlier(results, tmp_path):
    file = tmp_path / "results.json"
    before = json.loads(json.dumps(results))
    before["date"] = "2001-02-03"
    before["training"] = {BACKEND: {}, "another": results["training"][BACKEND]}
    file.write_text(json.dumps(before))
    _run("--only", "training", "--json", file, "--report", tmp_path)
    now = json.loads(file.read_text())
    assert set(now.pop("training")[BACKEND]) == set(results["training"][BACKEND])
    date = now.pop("later")["training"][BACKEND]
    assert date >= results["date"]
    # All else is as it was, the training on another backend too.
    del before["training"]
    assert now == before
    text = _pages(tmp_path)
    assert "Measured on 2001-02-03 by" in text
    assert f"- training, measured by itself: {BACKEND} on {date}" in text
    assert "from memory: another, " in text


def test_the_report_tells_of_all(folder, results):
    text = _pages(folder / "report")
    assert "Its times mean nothing" in text
    assert results["command"] in text
    for name in results["works"]:
        # Time, and what it costs besides.
        assert len(re.findall(rf"^\| {BACKEND} \| {name}\b", text, re.MULTILINE)) >= 2
    assert f"faster of floor and `predict`, compute-bound: W2, {BACKEND}" in text
    assert f"`predict_on_batch`, milliseconds: W8, {BACKEND}" in text
    assert f"epoch of a head: from the store / from memory: {BACKEND}, `saved" in text
    assert "| two branches of 1,797 digits, with labels | 2 |" in text
    for chart in ("performance-time.svg", "performance-memory.svg"):
        assert f"({chart})" in text
        drawn = ElementTree.parse(folder / "report" / chart).getroot()
        words = " ".join(drawn.itertext())
        assert "save" in words
