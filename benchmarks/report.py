"""Tables and charts of a run of the suite: two pages and two SVG files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import charts
from benchmarks.pages import BACKEND, STORES
from benchmarks.targets import Figure, Target, best, epochs, ratio, runs, targets
from benchmarks.ways import WAYS
from benchmarks.works import WORKS

Found = dict[str, Any]

IN_SHORT = """# Performance

What layertap takes, and what the usual way takes for the same, on each backend. Both
take turns in one run; these are medians. `make bench` measures all of it, and writes
this page and [that of all figures](performance-details.md). On a shared machine, the
ratios mean more than the seconds.
"""
MEASURED = """
## How it is measured

A figure is a ratio of medians of ways that took turns in one run; brackets hold the
least and the greatest ratio of a turn.

- **floor**: one compiled step of a model with all branches as outputs, written by hand
  for the backend, over the same batches; results are copied to the host and dropped.
- **raw**: the same, and each branch written to a plain file, which is synced.
- **save**: `layertap.save`, with all its guarantees: synced, in blocks that are
  committed, with checksums and digests of values and inputs.
- **predict**, **multi**: one model of all branches, `predict`, without and with
  `np.save`.
- **article**: one model for each branch, `predict`, `np.save`.
- **h5py**: a loop by hand of `predict_on_batch` into data sets of h5py.
- **keract**, **thingsvision**: the packages, each in an environment of its own.

Only raw and save sync their files. *After the first batch* excludes the time until the
end of the first batch, on both sides, because both compile there.
"""
DETAILS = """# Performance: all figures

Every target, and every work with every way, on each backend.
[Performance](performance.md) has the figures that most users ask for, and says how they
are measured.
"""


def write(found: Found, folder: Path) -> None:
    """Writes the two pages and their charts into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    charts.times(found, folder / "performance-time.svg")
    charts.memory(found, folder / "performance-memory.svg")
    for name, lines in (("", _in_short(found)), ("-details", _details(found))):
        (folder / f"performance{name}.md").write_text("\n".join(lines) + "\n")


def _in_short(found: Found) -> Iterator[str]:
    yield IN_SHORT
    backends = _backends(found)
    rows = (
        (what, *(_pair(found, backend, *pair) for backend in backends))
        for what, pair in _SHORT.items()
    )
    yield from _table(["layertap / the usual way", *backends], rows)
    yield "\n## Memory\n"
    yield "![Peak memory beyond the model's own](performance-memory.svg)\n"
    yield "Peak MiB beyond the memory of the process before, each in a new process.\n"
    yield from _table(["work", "backend", "floor", "save", "multi"], _memory(found))
    yield "\n## Each way by itself\n"
    yield "Seconds of the second call in a new process, where no other way ran. On"
    yield "Linux, each batch returns its memory to the system, and the next gets it"
    yield "again. layertap keeps it, which speeds up other ways in its process, too."
    yield "Only save waits until its files are on the disk: in turns, multi has to wait"
    yield "for files that others left in the system's cache.\n"
    yield from _table(["work", "backend", "save", "multi"], _alone(found))
    yield "\n## First calls\n"
    yield "Seconds for one batch in a new process, planning and compiling included.\n"
    yield from _table(
        ["work", "backend", "floor", "save", "multi", "article"], _first(found)
    )
    yield "\n## Reading\n"
    yield "Seconds for memory-mapped `.npy` files over seconds for the store: above 1,"
    yield "the store is faster. The store is opened again each time, so all checksums"
    yield "are computed. All files are in the page cache.\n"
    yield from _table(["work", *_KINDS], _readings(found))
    yield "\n## Training on saved values\n"
    yield "Seconds of an epoch of W2, in batches of 32, and its multiples: the head,"
    yield "from arrays in memory and from the store, which is in the page cache; the"
    yield "complete model, from images, with all layers before the join frozen. Each is"
    yield "the second epoch of a `fit`.\n"
    yield from _table(_EPOCHS, _training(found))
    if "pages" in found:
        yield "\n## Pages\n"
        yield "How long you wait for `layertap.report`, and then for Chromium (without"
        yield "a window) until it has loaded the page; medians. A page stays small"
        yield "enough to send, however large the store is.\n"
        yield from _table(_PAGES, _pages(found))
        if any(one["opening"] is None for one in _measured_pages(found).values()):
            yield "\nPages were not opened: the machine had no Chromium."
    yield from _measuring(found)


def _measuring(found: Found) -> Iterator[str]:
    """Yields how, when and where it was measured."""
    yield MEASURED
    yield f"Measured on {found['date']} by `{found['command']}`, on:"
    yield ""
    yield from (f"- {name}: {value}" for name, value in found["machine"].items())
    yield from _later(found)
    if found["quick"]:
        yield "\n**A quick run shows that the suite works. Its times mean nothing.**"
    if "note" in found:
        yield f"\n{found['note']}"


def _details(found: Found) -> Iterator[str]:
    yield DETAILS
    yield "## Time\n"
    yield "![Time, in multiples of the floor](performance-time.svg)\n"
    yield "Wall time of complete calls, in multiples of the floor. Everything was"
    yield "compiled before.\n"
    yield from _by_backend(found, _TIMES, _times)
    yield "\n## Processors, files, first calls\n"
    yield "Time of all processors after the first batch, in multiples of the floor's;"
    yield "bytes on disk after save, as a share of all branches as plain files;"
    yield "seconds of the first call in a process that ran other ways before.\n"
    yield from _by_backend(found, _COSTS, _costs)
    yield "\n## Targets\n"
    yield from _table(["figure", "target", "measured", ""], _targets(targets(found)))


def _by_backend(
    found: Found,
    head: Sequence[str],
    rows: Callable[[Found, str], Iterator[Sequence[str]]],
) -> Iterator[str]:
    """Yields one table, with the works of each backend below each other."""
    both = (
        (backend, *row) for backend in _backends(found) for row in rows(found, backend)
    )
    yield from _table(["backend", *head], both)


_KINDS = [
    "sequential batches",
    "shuffled batches",
    "random rows",
    "one row",
    "opening",
]
_TIMES = [
    *("work", "floor, s", "raw", "save", "save, after the first batch"),
    *("predict", "multi", "article", "h5py", "keract", "thingsvision"),
]
_COSTS = [
    *("work", "raw, CPU", "save, CPU", "bytes on disk / plain", "files"),
    *("floor, first", "save, first", "plan / building"),
]
_EPOCHS = [
    *("backend", "memory, s", "`saved.dataset` / memory", "`saved.tf` / memory"),
    *("frozen stem, s", "frozen stem / the best from the store"),
]
_PAGES = ["store", "values", "store, MB", "page, MB", "written in, s", "loaded in, s"]


# A question of a user: two ways of a part of the suite, and what is shown of them.
_SHORT: dict[str, tuple[str, str, str, str]] = {
    "All branches of 8 images from InceptionV3, again: `capture` / `predict_on_batch` "
    "of a model of all branches": ("calls", "W4 whole", "capture", "on batch"),
    "Four branches of 8,192 images to disk: `save` / a model for each branch and "
    "`np.save`": ("works", "W2", "save", "article"),
    "The same: `save` / one model of all branches and `np.save`": (
        *("works", "W2", "save", "multi"),
    ),
    "1 GiB of maps to disk: `save` / one model of all branches and `np.save`": (
        *("works", "W3", "save", "multi"),
    ),
    "Memory for that": ("peaks", "W3", "save", "multi"),
    "An epoch of a head: from the store / with the frozen branches": (
        *("training", "", "dataset", "images"),
    ),
}


def _pair(found: Found, backend: str, part: str, work: str, *ways: str) -> str:
    """Returns what two ways take on a backend: seconds, or memory."""
    measured = found.get(part, {})
    one = measured.get(backend, {}) if part != "works" else measured.get(work, {})
    cells = []
    for way in ways:
        match part:
            case "works":
                times = runs(one.get(backend, {"ways": {}}), way, "wall")
            case "calls":
                times = one.get(work, {}).get(way, [])
            case "training":
                times = epochs(one, way)
            case _:
                peak = one.get(work, {}).get(way, {}).get("peak")
                cells.append("–" if peak is None else f"{peak / 2**20:,.0f} MiB")  # noqa: RUF001
                continue
        cells.append(f"{median(times):.2f} s" if times else "–")  # noqa: RUF001
    return " / ".join(cells)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _later(found: Found) -> Iterator[str]:
    """Yields the dates of parts that replaced earlier ones."""
    for part, by_backend in found.get("later", {}).items():
        dates = ", ".join(
            f"{backend} on {date}" for backend, date in by_backend.items()
        )
        yield f"- {part}, measured by itself: {dates}"


def _backends(found: Found) -> list[str]:
    return list(next(iter(found["works"].values())))


def _targets(all_targets: list[Target]) -> Iterator[Sequence[str]]:
    for target in all_targets:
        sign = "at most" if target.upper else "at least"
        for figure in target.figures:
            yield (
                f"{target.title}: {figure.what}",
                f"{sign} {_number(target.bound)}",
                told(figure),
                "kept" if target.kept(figure) else "**missed**",
            )


def told(figure: Figure) -> str:
    """Returns a figure with its range."""
    if figure.least == figure.most:
        return _number(figure.value)
    return f"{_number(figure.value)} ({_number(figure.least)}–{_number(figure.most)})"  # noqa: RUF001


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _relative(one: Found, way: str, key: str) -> str:
    base = runs(one, "floor", key)
    those = runs(one, way, key)
    if not those:
        tried = way in one["ways"]
        return "fails" if tried else "–"  # noqa: RUF001
    return _number(median(those) / median(base))


def _times(found: Found, backend: str) -> Iterator[Sequence[str]]:
    for work, by_backend in found["works"].items():
        one = by_backend[backend]
        peers = ("predict", "multi", "article", "h5py", "keract", "thingsvision")
        yield (
            _titled(work),
            f"{median(runs(one, 'floor', 'wall')):.2f}",
            _relative(one, "raw", "wall"),
            _relative(one, "save", "wall"),
            _relative(one, "save", "after"),
            *(_relative(one, way, "wall") for way in peers),
        )


def _costs(found: Found, backend: str) -> Iterator[Sequence[str]]:
    for work, by_backend in found["works"].items():
        one = by_backend[backend]
        yield (
            work,
            _relative(one, "raw", "after_cpu"),
            _relative(one, "save", "after_cpu"),
            f"{one['on_disk'] / one['naive']:.3f}",
            str(runs(one, "save", "files")[-1]),
            f"{one['ways']['floor']['first']['wall']:.2f}",
            f"{one['ways']['save']['first']['wall']:.2f}",
            _number(one["planning"] / one["building"]),
        )


def _memory(found: Found) -> Iterator[Sequence[str]]:
    for backend, works in found["peaks"].items():
        for work, ways in works.items():
            cells = (_mebibytes(ways, way) for way in _of(ways))
            yield (_titled(work), backend, *cells)


def _alone(found: Found) -> Iterator[Sequence[str]]:
    for backend, works in found["peaks"].items():
        for work, ways in works.items():
            if any("again" in one for one in ways.values()):
                # The floor is of a plan: layertap was there.
                walls = (ways[way].get("again") for way in ("save", "multi"))
                cells = ("fails" if wall is None else f"{wall:.2f}" for wall in walls)
                yield (_titled(work), backend, *cells)


def _of(ways: Found) -> tuple[str, ...]:
    return ("floor", "save", "multi")


def _mebibytes(ways: Found, way: str) -> str:
    if way not in ways:
        return "–"  # noqa: RUF001
    return "fails" if "error" in ways[way] else f"{ways[way]['peak'] / 2**20:,.0f}"


def _first(found: Found) -> Iterator[Sequence[str]]:
    for backend, works in found["first"].items():
        for work, ways in works.items():
            cells = []
            for way in ("floor", "save", "multi", "article"):
                walls = [one["wall"] for one in ways.get(way, []) if "error" not in one]
                cells.append(f"{median(walls):.1f}" if walls else "–")  # noqa: RUF001
            yield (_titled(work), backend, *cells)


def _titled(work: str) -> str:
    return f"{work}: {WORKS[work].title}" if work in WORKS else work


def _readings(found: Found) -> Iterator[Sequence[str]]:
    for work, by_backend in found["works"].items():
        reading = by_backend.get("tensorflow", {}).get("reading")
        if reading:
            both = (zip(*reading[kind], strict=True) for kind in _KINDS)
            yield (
                WORKS[work].title,
                *(_number(median(npy) / median(ours)) for npy, ours in both),
            )


def _training(found: Found) -> Iterator[Sequence[str]]:
    for backend, one in found.get("training", {}).items():
        seconds = {way: median(epochs(one, way)) for way in one}
        memory, images = seconds["memory"], seconds["images"]
        yield (
            backend,
            f"{memory:.2f}",
            _number(seconds["dataset"] / memory),
            _number(seconds["tf"] / memory) if "tf" in one else "–",  # noqa: RUF001
            f"{images:.2f}",
            _number(ratio("", epochs(one, "images"), epochs(one, best(one))).value),
        )


def _pages(found: Found) -> Iterator[Sequence[str]]:
    for name, one in _measured_pages(found).items():
        yield (
            STORES[name].title,
            f"{one['values']:,}",
            *(f"{one[size] / 1e6:.2f}" for size in ("store", "page")),
            f"{median(one['writing']):.2f}",
            f"{median(one['opening']):.2f}" if one["opening"] else "–",  # noqa: RUF001
        )


def _measured_pages(found: Found) -> Found:
    measured: Found = found["pages"][BACKEND]
    return measured


assert set(_TIMES[1:]) - {"floor, s", "save, after the first batch"} <= set(WAYS)
