"""Does what a newcomer does, from nothing to values of a model, and times each step.

`make newcomer` runs it. It installs the wheel in an empty environment, follows the
quickstart and three guides, and starts the demo. It ends with a table.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.package.environment import DOCS, Environment, FailedError, run

PAGES = ("quickstart", "tutorial", "effects", "recording")
EXTRAS = "jax,demo"


class Steps:
    """The steps that were done: name, seconds, result."""

    def __init__(self) -> None:
        self.done: list[tuple[str, float, str]] = []
        self.failed = 0

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Times a step, whose result is passed to a function. A failure is counted."""
        print(f"== {name}", flush=True)
        results: list[str] = []
        start = time.perf_counter()
        try:
            yield results.append
        except FailedError as error:
            print(error, flush=True)
            self.failed += 1
            results.append(f"FAILED: {str(error).splitlines()[-1]}")
        self.done.append((name, time.perf_counter() - start, results[-1]))

    def __str__(self) -> str:
        total = sum(seconds for _, seconds, _ in self.done)
        rows = [*self.done, ("all steps", total, f"{self.failed} failed")]
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{name:{width}}  {spent:7.1f}  {got}" for name, spent, got in rows]
        return "\n".join([f"{'step':{width}}  seconds  result", *lines])


def main() -> int:
    """Does all steps and prints the table; returns 1 if one failed."""
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        folder = Path(name)
        environment = installed(folder, steps)
        if environment is not None:
            use(environment, folder, steps)
    print("", steps, sep="\n")
    return 1 if steps.failed else 0


def installed(folder: Path, steps: Steps) -> Environment | None:
    """Returns an environment with layertap, or None if a step failed."""
    with steps.step("make an empty environment") as result:
        environment = Environment(folder)
        result(environment.python("--version").strip())
    if steps.failed:
        return None
    with steps.step("build the wheel") as result:
        wheel = environment.build(folder)
        result(f"{wheel.name}, {wheel.stat().st_size / 1000:.0f} kB")
    if steps.failed:
        return None
    with steps.step(f"install layertap[{EXTRAS}]") as result:
        packages = environment.install(wheel, EXTRAS)
        size = sum(f.lstat().st_size for f in environment.folder.rglob("*"))
        result(f"{len(packages)} packages, {size / 1e6:,.0f} MB")
    return None if steps.failed else environment


def use(environment: Environment, folder: Path, steps: Steps) -> None:
    """Follows the pages and starts the demo, each in a folder of its own."""
    for page in PAGES:
        with steps.step(f"follow docs/{page}.md") as result:
            place = folder / page
            result(summary(environment.follow(DOCS / f"{page}.md", place), place))
    with steps.step("layertap demo") as result:
        place = folder / "demo"
        place.mkdir()
        result(summary(run([environment.programs / "layertap", "demo"], place), place))


def summary(printed: str, place: Path) -> str:
    """Says how much was printed, and which stores, pages and files were made."""
    made = sorted(p.name for p in place.iterdir() if p.suffix != ".py")
    return f"{len(printed.splitlines())} lines, made {', '.join(made)}"


if __name__ == "__main__":
    sys.exit(main())
