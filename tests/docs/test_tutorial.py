"""The code blocks of the guides run, with the results that they show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.one_backend, pytest.mark.campaign(alone=True)]

DOCS = Path(__file__).parents[2] / "docs"


def printed_by(guide, blocks, folder):
    """Runs a guide from top to bottom; returns what it prints."""
    found = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
    assert len(found) == blocks
    script = folder / "guide.py"
    script.write_text("\n".join(found), "utf-8")
    ended = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        # PyTorch takes five times as long to train its models.
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_tutorial_trains_three_heads(tmp_path):
    printed = printed_by(DOCS / "tutorial.md", 5, tmp_path)
    rights = dict(re.findall(r"(\w+)(?: alone)?: ([\d.]+)% right", printed))
    assert list(rights) == ["reader_head", "line", "deep", "look", "weigh"]
    # Ten digits, or even and odd: far better than chance.
    chances = {"reader_head": 10, "line": 50, "deep": 50, "look": 10, "weigh": 10}
    assert all(float(rights[name]) > chances[name] + 25 for name in chances)
    for head in ("reader_head", "line", "deep"):
        assert f"{head} relies on look." in printed


def test_the_guide_to_effects_finds_the_branch_to_blame(tmp_path):
    printed = printed_by(DOCS / "effects.md", 6, tmp_path)
    missed = float(re.findall(r"miss at most (\S+) of the loss", printed)[0])
    assert missed < 1e-5
    parts = re.findall(r"(right|wrong): look (\S+), feel (\S+)", printed)
    right, wrong = ((float(look), float(feel)) for _, look, feel in parts)
    assert right[0] < wrong[0] < 0
    assert wrong[1] > 5 * abs(right[1])
    blamed, others, without, before = map(float, re.findall(r"([\d.]+)%", printed)[:4])
    assert blamed > 30
    assert others < 10
    assert without > before + 2
    shares = re.findall(r"'(look|feel)': '(\d+)%'", printed)
    assert [name for name, _ in shares] == ["look", "feel"]


def test_the_guide_to_recordings_finds_the_dying_branch(tmp_path):
    printed = printed_by(DOCS / "recording.md", 3, tmp_path)
    dead = re.findall(r"dead units: ([\d ]+)", printed)[0].split()
    assert int(dead[-1]) > int(dead[0])
    courses = dict(re.findall(r"(fusion/in/\d) ([\d. ]+)", printed.split("changed")[1]))
    assert len(courses) == 2
    assert all(float(course.split()[-1]) == 1 for course in courses.values())
    assert float(re.findall(r"(\d+)% of the rows are right", printed)[0]) > 85


def test_a_student_learns_what_a_teacher_computes(tmp_path):
    printed = printed_by(DOCS / "distillation.md", 3, tmp_path)
    found = re.findall(r"(teacher|small): ([\d,]+) numbers, ([\d.]+)% right", printed)
    (_, large, taught), (_, small, right) = found
    assert int(small.replace(",", "")) * 20 < int(large.replace(",", ""))
    assert float(right) > float(taught) - 8
    assert float(right) > 80


def test_each_kind_of_data_gives_the_same_values(tmp_path):
    # Each block checks its store.
    printed = printed_by(DOCS / "data.md", 15, tmp_path)
    assert "['china', 'flower']" in printed


def test_the_guide_from_keract_prints_what_it_shows(tmp_path):
    guide = DOCS / "keract.md"
    shown = re.findall(r"```\n\n```\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
    assert printed_by(guide, 4, tmp_path) == "".join(shown)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["0_block.png", "0_kernel.png"]


def test_the_guide_to_exports_reads_each_format_back(tmp_path):
    guide = DOCS / "export.md"
    printed = printed_by(guide, 7, tmp_path)
    blocks = re.findall(r"^```(.*?)^```", guide.read_text("utf-8"), re.DOTALL | re.M)
    shown = [block[1:] for block in blocks if block.startswith("\n")]
    assert len(shown) == 3
    assert printed == "".join(shown)


def test_the_guide_to_plots_draws_its_pictures(tmp_path):
    from PIL import Image

    printed = printed_by(DOCS / "plots.md", 6, tmp_path)
    assert printed.splitlines()[-3:] == [
        "fusion/in/1, recording run",
        "made by read, model reader, 10 steps",
        "True",
    ]
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["branch.png", "maps.png", "sequence.png"]
    for name in ("branch.png", "maps.png"):
        page = DOCS / "pictures" / name
        assert page.stat().st_size < 60_000
        with Image.open(page) as shown, Image.open(tmp_path / name) as drawn:
            assert shown.size == drawn.size
