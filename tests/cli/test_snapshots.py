"""Help texts and common errors are, letter by letter, what the snapshots hold.

After a change that is wanted, renew them and read the difference:

RENEW_SNAPSHOTS=1 python -m pytest tests/cli/test_snapshots.py; git diff tests/cli
"""

import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from layertap.cli import main

pytestmark = pytest.mark.one_backend

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTH = 80
LINES = 50

# In a folder with models, data, a store v.zarr, an export and a page of it.
ERRORS = {
    "words": ["plann", "--foo", "plan", "plan two.keras --befor x", "save a b"],
    "models": [
        "plan gone.keras",
        "plan images",
        "plan text.keras",
        "plan lambda.keras",
        "plan custom.keras",
        "plan line.keras",
    ],
    "values": [
        "plan two.keras --before fuson",
        "plan two.keras --outputs lft",
        "plan two.keras --joins concat",
        "plan two.keras --dtype float",
        "plan two.keras --reduce median",
        "plan two.keras --gradients sum",
        "plan two.keras --gradients loss",
        "plan two.keras --attributions 0 --steps 0",
        "plan two.keras --baseline mean",
    ],
    "data": [
        "save two.keras gone.npy -o w.zarr",
        "save two.keras text.txt -o w.zarr",
        "save two.keras narrow.npy -o w.zarr",
        "save pair.keras misspelt.npz -o w.zarr",
        "save two.keras x.npz -o w.zarr --labels lables",
        "save two.keras x.npy -o w.zarr --skip-bad",
        "save two.keras sources:absent -o w.zarr",
        "save two.keras x.npy -o w.zarr --workers 2",
        "save two.keras x.npy -o w.zarr --memory many",
    ],
    "stores": [
        "save two.keras x.npy -o v.zarr --dtype float16",
        "save two.keras x.npy -o images",
        "show gone.zarr",
        "show text.txt",
        "show images",
        "verify v.zarr --model two.keras",
        "diff v.zarr gone.zarr",
        "importance v.zarr two.keras",
        "importance v.zarr compiled.keras --branches lft",
        "importance v.zarr compiled.keras --rows 3",
        "export v.zarr x.csv",
        "export v.zarr saved.npz",
        "export v.zarr y.npz --address fusion/in/9",
        "report v.zarr -o page.html",
        "report v.zarr -o other.html --inputs other.npy",
    ],
}


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def typed(line):
    result = CliRunner().invoke(main, shlex.split(line))
    # Never a traceback, nor an error that nobody foresaw.
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def same(name, text):
    """Compares a text with its snapshot, or renews that."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("RENEW_SNAPSHOTS"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("command", ["", *main.commands])
def test_help(command):
    result = typed(f"{command} --help")
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) <= LINES
    assert re.match(r"  [A-Z].*\.", lines[2])
    examples = result.stdout.partition("\nExample")[2].splitlines()[1:]
    assert any(line.startswith(f"  layertap {command}") for line in examples)
    same(f"help_{command}".removesuffix("_"), result.stdout)


@pytest.fixture(scope="module")
def stores(files):
    """The folder of `files`, with a store and what is made of it."""
    made = {name: str(files / name) for name in ("v.zarr", "saved.npz", "page.html")}
    two, x = str(files / "two.keras"), str(files / "x.npz")
    for words in (
        ["save", two, x, "-o", made["v.zarr"]],
        ["export", made["v.zarr"], made["saved.npz"]],
        ["report", made["v.zarr"], "-o", made["page.html"]],
    ):
        assert typed(shlex.join(words)).exit_code == 0
    return files


@pytest.mark.parametrize("kind", ERRORS)
def test_errors(kind, stores, here):
    shown = []
    for line in ERRORS[kind]:
        result = typed(line)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        error = result.stderr.replace(f"{here.resolve()}/", "")
        # Digests of runs.
        error = re.sub(r"\b[0-9a-f]{16}\b", "<digest>", error)
        shown.append(f"$ layertap {line}\n{error}exit status {result.exit_code}\n")
    same(f"errors_{kind}", "\n".join(shown))


def test_no_snapshot_is_left_over():
    helps = {f"help_{name}".removesuffix("_") for name in ("", *main.commands)}
    kept = {path.stem for path in SNAPSHOTS.glob("*.txt")}
    assert kept == helps | {f"errors_{kind}" for kind in ERRORS}
