"""Pages of docs/: their blocks of code, run from top to bottom, and what they print."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.support.source import ROOT

DOCS = ROOT / "docs"
RUN = ("python", "sh")
# What other blocks hold: output, or text that is not run.
SHOWN = ("", "text")

_BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-+±]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_MARK = "==== the end of block"
_SHELL = "subprocess.run(['bash', '-e', '-c', {!r}], check=True)"
_FRAME = f"""
sys.stdout.flush()
print({_MARK!r}, flush=True)
"""


class Block(NamedTuple):
    """A block of code, and the output that the page shows below it, or None."""

    language: str
    code: str
    shown: str | None


def languages(page):
    """Lists the language of each block of a page, "" for output."""
    return [match[2] for match in _BLOCK.finditer(page.read_text("utf-8"))]


def blocks(page):
    """Lists the blocks of a page that run."""
    found = []
    for match in _BLOCK.finditer(page.read_text("utf-8")):
        language, code = match[2], match[3]
        if language in RUN:
            found.append(Block(language, code, None))
        elif language == "" and found:
            found[-1] = found[-1]._replace(shown=code)
    return found


def run(page, folder, backend):
    """Runs the blocks of a page in a folder; returns what each of them prints."""
    script = ["import subprocess, sys"]
    for block in blocks(page):
        code = block.code if block.language == "python" else _SHELL.format(block.code)
        script += [code, _FRAME]
    file = folder / "page.py"
    file.write_text("\n".join(script), "utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        [sys.executable, file],
        cwd=folder,
        env=os.environ
        | {
            "PATH": path,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "KERAS_BACKEND": backend,
            "PYTHONIOENCODING": "utf-8",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "COLUMNS": "110",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-6000:]
    printed = ended.stdout.replace(f"{folder}/", "")
    return printed.split(f"{_MARK}\n")[:-1]


def same(shown, printed, *, numbers):
    """Whether a page shows what was printed; a line of `…` stands for any lines.

    Widths and digests do not count. With `numbers`, these are equal, those with a
    point within 1 %.
    """
    shown, printed = _normal(shown), _normal(printed)
    words = map(re.escape, _NUMBER.split(shown))
    pattern = f"({_NUMBER.pattern})".join(words)
    match = re.fullmatch(pattern.replace(re.escape(" … "), " .*"), printed)
    if not match or not numbers:
        return bool(match)
    return all(map(_close, _NUMBER.findall(shown), match.groups()))


def _normal(text):
    text = re.sub(r"\b[0-9a-f]{16}\b", "digest", text)
    words = re.sub(r"[─│┼┬┴├┤]+", " ", text).split()
    return f" {' '.join(words)} "


def _close(one, other):
    if one == other:
        return True
    a, b = (float(number.strip("+±").replace(",", "")) for number in (one, other))
    return "." in one + other and abs(a - b) <= 0.01 * max(abs(a), abs(b))


def main():
    """Prints what each block of some pages prints: for whoever writes a page."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            backend = os.environ.get("KERAS_BACKEND", "jax")
            for number, text in enumerate(run(DOCS / name, Path(folder), backend), 1):
                print(f"== {name}, block {number}\n{text}", end="")


if __name__ == "__main__":
    main()
