"""Two charts of a run of the suite."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

from benchmarks.targets import runs

Found = dict[str, Any]

WAYS = {
    "floor": "#b8b8b8",
    "raw": "#7f9fb5",
    "save": "#c8442c",
    "multi": "#5b7553",
    "h5py": "#8a6d9e",
    "article": "#3b4a66",
    "keract": "#a58b3d",
    "thingsvision": "#6d6d6d",
}
_INK = "#444444"


def times(found: Found, file: Path) -> None:
    """Draws the time of each way on TensorFlow, or else the first backend.

    Args:
        found: What was measured.
        file: The SVG file.
    """
    backend = _backend(next(iter(found["works"].values())))
    rows = []
    for work, by_backend in found["works"].items():
        one = by_backend[backend]
        base = median(runs(one, "floor", "wall"))
        for way in WAYS:
            those = runs(one, way, "wall")
            if those:
                rows.append((work, way, median(those) / base))
    figure, axes = _bars(
        rows, f"Time of a whole call on {backend}; the model alone is 1"
    )
    axes.set_xscale("log")
    axes.axvline(1, color=_INK, linewidth=0.8)
    _write(figure, file)


def memory(found: Found, file: Path) -> None:
    """Draws the peak memory of some ways.

    Args:
        found: What was measured.
        file: The SVG file.
    """
    backend = _backend(found["peaks"])
    rows = [
        (work, way, answer["peak"] / 2**20)
        for work, ways in found["peaks"][backend].items()
        for way, answer in ways.items()
        if "error" not in answer
    ]
    title = f"MiB at most beyond the model's own and the data, on {backend}"
    figure, _ = _bars(rows, title)
    _write(figure, file)


def _backend(names: Iterable[str]) -> str:
    known = list(names)
    return "tensorflow" if "tensorflow" in known else known[0]


def _bars(rows: list[tuple[str, str, float]], title: str) -> tuple[Any, Any]:
    matplotlib.use("svg")
    # The text stays text, and the same results give the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "layertap"}
    from matplotlib import pyplot

    places, names, place, last = [], [], 0.0, ""
    for work, way, _ in rows:
        place += 1.9 if work != last and last else 1
        last = work
        places.append(place)
        names.append(f"{work}  {way}")
    figure, axes = pyplot.subplots(figsize=(7.5, 0.6 + 0.17 * place))
    axes.barh(places, [row[2] for row in rows], color=[WAYS[row[1]] for row in rows])
    for at, row in zip(places, rows, strict=True):
        number = f"{row[2]:,.2f}" if row[2] < 10 else f"{row[2]:,.0f}"
        axes.text(row[2], at, f" {number}", va="center", fontsize=7, color=_INK)
    axes.set_yticks(places, names, fontsize=7, color=_INK)
    axes.tick_params(axis="x", labelsize=7, colors=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write(figure: Any, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
