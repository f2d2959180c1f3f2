"""An empty virtual environment with layertap's wheel, for `make package` and others."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class FailedError(Exception):
    """A program ended with an error; its last lines say why."""


class Environment:
    """A virtual environment in a new folder. Nothing of the checkout is in it.

    Programs that run in it know the index and the proxies that the user has set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "environment"
        self.programs = self.folder / "bin"
        run([sys.executable, "-m", "venv", self.folder], folder)

    def python(self, *words: str | Path, folder: Path | None = None) -> str:
        """Runs Python, in its own folder or in another one."""
        return run([self.programs / "python", *words], folder or self.folder)

    def build(self, folder: Path) -> Path:
        """Builds the wheel of the checkout into a folder."""
        words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir")
        self.python(*words, folder, ROOT)
        (wheel,) = folder.glob("layertap-*.whl")
        return wheel

    def install(self, wheel: Path, extras: str) -> list[str]:
        """Installs a wheel with some extras; returns all packages that are there."""
        self.python("-m", "pip", "install", "--quiet", f"{wheel}[{extras}]")
        return self.python("-m", "pip", "list", "--format", "freeze").split()

    def follow(self, page: Path, folder: Path) -> str:
        """Runs the Python of a page from top to bottom; returns what it prints."""
        folder.mkdir()
        blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        if not blocks:
            raise FailedError(f"{page.name} has no Python.")
        script = folder / f"{page.stem}.py"
        script.write_text("\n".join(blocks), "utf-8")
        return self.python(script, folder=folder)


def run(words: list[str | Path], folder: Path) -> str:
    """Runs a program with JAX as the backend; returns what it prints."""
    variables = {"KERAS_BACKEND": "jax", "PYTHONIOENCODING": "utf-8"}
    ended = subprocess.run(
        words,
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if ended.returncode:
        lines = (ended.stdout + ended.stderr).rstrip().splitlines()
        raise FailedError("\n".join(lines[-15:]) or f"status {ended.returncode}")
    return ended.stdout
