"""The commands of the page about the command line run, and so do examples in helps."""

import os
import re
import subprocess
import sys

import click
import pytest

from layertap.cli import main
from tests.support.source import ROOT

pytestmark = [pytest.mark.one_backend, pytest.mark.campaign(alone=True)]

PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(sh)?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs lines of a shell in a folder in which the demo ran; returns the output."""
    folder = tmp_path_factory.mktemp("page")
    program = folder / "bin" / "layertap"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nfrom layertap.cli import run\n\nrun()\n", "utf-8"
    )
    program.chmod(0o755)
    programs = [str(program.parent), os.path.dirname(sys.executable)]  # noqa: PTH120
    path = os.pathsep.join([*programs, os.environ["PATH"]])

    def run(lines):
        done = subprocess.run(
            ["bash", "-e", "-c", lines],
            cwd=folder,
            env=os.environ | {"PATH": path, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("layertap demo")
    return run


def without_numbers(line):
    """Returns a line without its numbers, which backends compute differently."""
    return " ".join(re.sub(r"[+-]?[\d.,]+(e-\d+)?", "0", line).split())


def test_the_blocks_run_and_print_the_lines_that_they_show(run):
    assert sum(kind == "sh" for kind, _ in BLOCKS) == 11
    printed = []
    for kind, text in BLOCKS:
        if kind == "sh":
            printed = [without_numbers(line) for line in run(text).splitlines()]
        else:
            assert [
                line
                for line in text.splitlines()
                # The length of a rule follows from the numbers.
                if "──" not in line and without_numbers(line) not in printed
            ] == []


def test_every_command_is_on_the_page():
    shown = " ".join(text for kind, text in BLOCKS if kind == "sh")
    assert [name for name in main.commands if f"layertap {name}" not in shown] == [
        "demo"
    ]


@pytest.mark.parametrize("name", ["", *sorted({*main.commands} - {"demo"})])
def test_the_example_in_a_help_text_runs(run, name):
    command = main.commands[name] if name else main
    assert isinstance(command, click.Command)
    run("rm -rf v.zarr half.zarr page.html digits.parquet\n" + command.epilog)
