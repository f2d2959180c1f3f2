"""The code blocks of the tutorial run, with the results that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.one_backend, pytest.mark.campaign(alone=True)]

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(blocks), "utf-8")
    ended = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        # PyTorch takes five times as long to train its models.
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rights = dict(re.findall(r"(\w+)(?: alone)?: ([\d.]+)% right", ended.stdout))
    assert list(rights) == ["reader_head", "line", "deep", "look", "weigh"]
    # Ten digits, or even and odd: far better than chance.
    chances = {"reader_head": 10, "line": 50, "deep": 50, "look": 10, "weigh": 10}
    assert all(float(rights[name]) > chances[name] + 25 for name in chances)
    for head in ("reader_head", "line", "deep"):
        assert f"{head} relies on look." in ended.stdout
