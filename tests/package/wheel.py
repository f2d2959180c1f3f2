"""Builds what would be published, and checks it: size, contents, first use.

`make package` runs it. The files stay in `dist/`.
"""

import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.package.environment import DOCS, ROOT, Environment, FailedError, run

# Docstrings are a fifth of it. Before you raise it, look for what is there twice.
MOST_BYTES = 500_000
DIST = ROOT / "dist"
# The package's own files, and the facts that every wheel has.
EXPECTED = re.compile(
    r"layertap/(\w+/)*(\w+\.py|templates/\w+\.(html|css)|py\.typed)"
    r"|layertap-[\d.]+\.dist-info/(METADATA|RECORD|WHEEL|entry_points\.txt"
    r"|licenses/LICENSE)"
)


def build() -> Path:
    """Builds the source distribution, and the wheel from it."""
    shutil.rmtree(DIST, ignore_errors=True)
    run([sys.executable, "-m", "build", "--outdir", DIST], ROOT)
    print(run([sys.executable, "-m", "twine", "check", "--strict", *files()], ROOT))
    (wheel,) = DIST.glob("*.whl")
    return wheel


def files() -> list[Path]:
    """Lists the files that would be published."""
    return sorted(DIST.iterdir())


def check(wheel: Path) -> None:
    """Raises an error if the wheel is too large, or has other files than expected."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in files():
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")
    size = wheel.stat().st_size
    if size > MOST_BYTES:
        raise FailedError(f"{wheel.name} has {size} bytes. Expected {MOST_BYTES}.")
    others = sorted(name for name in names if not EXPECTED.fullmatch(name))
    if others:
        raise FailedError(f"{wheel.name} has files that it should not have: {others}")
    package = ROOT / "src" / "layertap"
    sources = {
        f"layertap/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if sources - names:
        raise FailedError(f"{wheel.name} lacks {sorted(sources - names)}.")


def main() -> int:
    """Builds, checks and uses the wheel; returns 1 if a step fails."""
    try:
        wheel = build()
        check(wheel)
        with tempfile.TemporaryDirectory(prefix="package-") as name:
            environment = Environment(Path(name))
            environment.install(wheel, "jax,demo")
            print(environment.python("-m", "layertap", "--version").strip())
            print(environment.follow(DOCS / "quickstart.md", Path(name) / "first"))
    except FailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
