"""The targets, and how far the figures are from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.training import STORE

Found = dict[str, Any]

# What the values on their way to the disk may take: `memory=` of `layertap.save`.
BUDGET = 512 * 2**20


@dataclass(frozen=True)
class Figure:
    """A measured figure.

    Attributes:
        what: What it is of.
        value: The ratio of medians, or what was measured once.
        least: The least of the ratios of each turn.
        most: The greatest.
    """

    what: str
    value: float
    least: float
    most: float


@dataclass(frozen=True)
class Target:
    """A bound that figures are to keep.

    Attributes:
        title: Which figure.
        bound: The bound.
        upper: Whether they are to be at most that; else at least.
        figures: Those that were measured.
    """

    title: str
    bound: float
    upper: bool
    figures: tuple[Figure, ...]

    def kept(self, figure: Figure) -> bool:
        """Whether a figure is within the bound."""
        below = figure.value <= self.bound
        return below if self.upper else figure.value >= self.bound


def ratio(what: str, over: list[float], under: list[float]) -> Figure:
    """Returns the ratio of two medians, with the range of those of each turn.

    Slow ways take fewer turns than others; those that both took count.
    """
    several = min(len(over), len(under))
    over, under = over[:several], under[:several]
    turns = [a / b for a, b in zip(over, under, strict=True)]
    return Figure(what, median(over) / median(under), min(turns), max(turns))


def runs(found: Found, way: str, key: str) -> list[float]:
    """Returns what was measured of a way in all turns; nothing if it failed."""
    return [run[key] for run in found["ways"].get(way, {"runs": []})["runs"]]


def _ways(
    found: Found, works: tuple[str, ...], over: str, under: str, key: str
) -> Iterator[Figure]:
    for work in works:
        for backend, one in found["works"].get(work, {}).items():
            a, b = runs(one, over, key), runs(one, under, key)
            if a and b:
                yield ratio(f"{work}, {backend}", a, b)


def _first(found: Found, work: str) -> Iterator[Figure]:
    for backend, works in found["first"].items():
        walls = {
            way: [one["wall"] for one in several if "error" not in one]
            for way, several in works.get(work, {}).items()
        }
        if walls.get("article") and walls.get("save"):
            turns = [walls["article"][0] / save for save in walls["save"]]
            value = median(walls["article"]) / median(walls["save"])
            yield Figure(f"{work}, {backend}", value, min(turns), max(turns))


def _faster(found: Found, works: tuple[str, ...]) -> Iterator[Figure]:
    """Yields the ratio of `save` to the faster of the floor and `predict`."""
    for work in works:
        for backend, one in found["works"].get(work, {}).items():
            save = runs(one, "save", "wall")
            under = [runs(one, way, "wall") for way in ("floor", "predict")]
            under = [several for several in under if several]
            if save and under:
                yield ratio(f"{work}, {backend}", save, min(under, key=median))


def _calls(found: Found, over: str, under: str, works: str) -> Iterator[Figure]:
    for backend, one in found.get("calls", {}).items():
        if works in one:
            pair = one[works][over], one[works][under]
            yield ratio(f"{works}, {backend}", *pair)


def _effects(found: Found, over: str, under: str) -> Iterator[Figure]:
    for backend, one in found.get("effects", {}).items():
        yield ratio(backend, one[over], one[under])


def _epochs(found: Found, over: str, under: str) -> Iterator[Figure]:
    for backend, one in found.get("epochs", {}).items():
        yield ratio(backend, one[over], one[under])


def _attributions(found: Found) -> Iterator[Figure]:
    """Yields what attributions cost beyond their values, over gradients by hand."""
    for backend, one in found.get("effects", {}).items():
        both = zip(one["attributions"], one["capture"], strict=True)
        yield ratio(backend, [all_ - values for all_, values in both], one["head"])


def _more(found: Found) -> Iterator[Figure]:
    """Yields the milliseconds that `capture` of the tiny model takes in addition."""
    for backend, one in found.get("calls", {}).items():
        if "W8" in one:
            both = zip(one["W8"]["capture"], one["W8"]["on batch"], strict=True)
            turns = [1000 * (ours - theirs) for ours, theirs in both]
            yield Figure(f"W8, {backend}", median(turns), min(turns), max(turns))


def _first_capture(found: Found) -> Iterator[Figure]:
    for backend, one in found.get("calls", {}).items():
        if "W4 whole" in one:
            first = one["W4 whole"]["first"]
            yield ratio(f"W4 whole, {backend}", first["capture"], first["predict"])


def _once(what: str, value: float) -> Figure:
    return Figure(what, value, value, value)


def _reading(found: Found, kind: str, *, npy_over: bool) -> Iterator[Figure]:
    for work, title in (("W3", "W3, maps"), ("W2", "W2, vectors")):
        reading = found["works"].get(work, {}).get("tensorflow", {}).get("reading")
        if reading:
            npy, ours = map(list, zip(*reading[kind], strict=True))
            yield ratio(title, npy, ours) if npy_over else ratio(title, ours, npy)


def _peaks(found: Found) -> Iterator[tuple[str, Found]]:
    for backend, works in found["peaks"].items():
        if not any("error" in one for ways in works.values() for one in ways.values()):
            yield backend, works


def epochs(one: Found, way: str) -> list[float]:
    """Returns the seconds of all epochs of training in one way."""
    return [epoch["seconds"] for epoch in one.get(way, [])]


def best(one: Found) -> str:
    """Returns the fastest way of training from a store, of those of a backend."""
    return min(
        (way for way in STORE if way in one), key=lambda way: median(epochs(one, way))
    )


def _training(found: Found, other: str, *, store_over: bool) -> Iterator[Figure]:
    for backend, one in found.get("training", {}).items():
        way = best(one)
        both = epochs(one, way), epochs(one, other)
        what = f"{backend}, `saved.{way}`"
        yield ratio(what, *(both if store_over else both[::-1]))


def targets(found: Found) -> list[Target]:
    """Returns all targets, with the figures of a run of the suite."""
    compute = tuple(_faster(found, ("W2", "W4", "W7")))
    several = tuple(_ways(found, ("W2", "W3"), "multi", "save", "wall"))
    peaks = [(backend, works) for backend, works in _peaks(found) if "W3" in works]
    grown = tuple(
        _once(
            backend,
            works["W3 four times"]["save"]["peak"] / works["W3"]["save"]["peak"],
        )
        for backend, works in peaks
    )
    budget = tuple(
        _once(
            f"{backend}, {work}",
            (works[work]["save"]["peak"] - works[work]["floor"]["peak"]) / BUDGET,
        )
        for backend, works in peaks
        for work in ("W2", "W3", "W5")
        if work in works
    )
    stored = tuple(
        _once(backend, one["on_disk"] / one["naive"])
        for backend, one in found["works"].get("W5", {}).items()
    )
    return [
        Target(
            "second `capture` / `predict_on_batch` of a model of all branches",
            1.3,
            True,
            tuple(_calls(found, "capture", "on batch", "W4 whole")),
        ),
        Target(
            "second `capture` - `predict_on_batch`, milliseconds",
            0.5,
            True,
            tuple(_more(found)),
        ),
        Target(
            "`tap(x)` / the compiled step by hand",
            1.1,
            True,
            tuple(_calls(found, "tap", "by hand", "W4 whole")),
        ),
        Target(
            "first `capture` / first `predict`, with a model of all branches",
            2.0,
            True,
            tuple(_first_capture(found)),
        ),
        Target(
            "save / the faster of floor and `predict`, compute-bound",
            1.05,
            True,
            compute,
        ),
        Target(
            "save, the complete call / article, the article's first example",
            1.0,
            True,
            tuple(_ways(found, ("W1a",), "save", "article", "wall")),
        ),
        Target(
            "save / raw, I/O-bound, both synced",
            1.15,
            True,
            tuple(_ways(found, ("W3",), "save", "raw", "after")),
        ),
        Target(
            "save / floor, tiny model",
            1.25,
            True,
            tuple(_ways(found, ("W8",), "save", "floor", "after")),
        ),
        Target(
            "save / `predict`, tiny model",
            1.0,
            True,
            tuple(_ways(found, ("W8",), "save", "predict", "wall")),
        ),
        Target(
            "article / save",
            6,
            False,
            tuple(_ways(found, ("W2",), "article", "save", "wall")),
        ),
        Target("first call: article / save", 25, False, tuple(_first(found, "W4"))),
        Target("multi / save", 1.0, False, several),
        Target(
            "keract / save",
            10,
            False,
            tuple(_ways(found, ("W2",), "keract", "save", "wall")),
        ),
        Target(
            "save with gradients / save, W2",
            2.2,
            True,
            tuple(_effects(found, "gradients", "save")),
        ),
        Target(
            "attributions in 16 steps - values / 16 gradients from the join on, W2",
            1.3,
            True,
            tuple(_attributions(found)),
        ),
        Target(
            "epoch with a recorder of 1 % of the rows / without, W2",
            1.05,
            True,
            tuple(_epochs(found, "recorded", "fit")),
        ),
        Target(
            "epoch of a student: Keras' distiller / from the store, W2",
            1.0,
            False,
            tuple(_epochs(found, "distiller", "student")),
        ),
        Target("peak memory, 4 GiB of values / 1 GiB", 1.05, True, grown),
        Target("peak memory beyond floor / the 512 MiB stated", 1.0, True, budget),
        Target("bytes on disk / naive bytes, W5", 1 / 6, True, stored),
        Target(
            "mapped npy / sequential batches",
            0.5,
            False,
            tuple(_reading(found, "sequential batches", npy_over=True)),
        ),
        Target(
            "mapped npy / shuffled batches",
            0.5,
            False,
            tuple(_reading(found, "shuffled batches", npy_over=True)),
        ),
        Target(
            "random rows / mapped npy",
            5,
            True,
            tuple(_reading(found, "random rows", npy_over=False)),
        ),
        Target(
            "epoch of a head: from the store / from memory",
            1.15,
            True,
            tuple(_training(found, "memory", store_over=True)),
        ),
        Target(
            "epoch: through the frozen stem / from the store",
            20,
            False,
            tuple(_training(found, "images", store_over=False)),
        ),
    ]
