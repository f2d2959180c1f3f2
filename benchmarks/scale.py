"""What saving a billion rows takes, as tables: `python -m benchmarks.scale`.

They stand in `docs/scale.md`. Nothing is sent and no model runs: `scale_plan.py` has
what follows from how a store is laid out, `scale_driver.py` runs driver and workers on
a bucket in memory and counts. Times follow from these and from the assumptions below.
With `--measure`, what was measured once is measured again, on this machine.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from benchmarks.scale_driver import Driver, Requests, pages
from benchmarks.scale_plan import MEMORIES, MIB, ROWS, Size, root_bytes, specs

# Assumed.
ROWS_A_SECOND = 1000  # of a GPU
GPUS_A_NODE = 8
NETWORK = 10e9 / 8  # bytes a second, of a node and of the driver
LATENCY = 0.05  # seconds, until a request is answered
WORKERS = 100  # of one GPU each

# Known of S3, for all objects below a prefix.
PUTS, GETS = 3500, 5500

# Measured on two shared cores by `--measure`.
RECORD_SECONDS = 0.010
RAY_GIVEN, RAY_SECONDS = 0.0008, 0.008
HELD, RAY_HELD = 4000, 8000

# As in the package.
_READERS, _LISTS, _DELETES, _PUTS_AT_ONCE = 16, 8, 32, 8

Row = Sequence[str]


@cache
def tables() -> dict[str, str]:
    """Returns all tables, by their titles."""
    return {
        "The saved arrays": _table(["array", *_SAVED], _saved()),
        "The size of blocks": _by_size(_SIZES),
        "Requests": _table(["", *_KINDS], _requests()),
        "Time and memory": _by_size(_TIMES),
        "The first bottleneck": _by_size(_FULL),
    }


_SAVED = ["how many", "numbers a row", "dtype", "bytes a row", "all rows"]


def _saved() -> Iterator[Row]:
    alike: dict[tuple[str, int, str], list[int]] = {}
    for spec in specs():
        what = "branch" if "/" in spec.path else f"`{spec.path}`"
        numbers = math.prod(spec.shape)
        alike.setdefault((what, numbers, spec.dtype), []).append(spec.row_bytes)
    for (what, numbers, dtype), rows in alike.items():
        yield _saved_row(what, f"{numbers:,}", dtype, rows)
    yield _saved_row("together", "", "", [spec.row_bytes for spec in specs()])


def _saved_row(what: str, numbers: str, dtype: str, rows: list[int]) -> Row:
    total = sum(rows)
    return [what, str(len(rows)), numbers, dtype, f"{total:,}", amount(total * ROWS)]


_SIZES: dict[str, Callable[[Size], str]] = {
    "rows of a block": lambda size: f"{size.block_rows:,}",
    "blocks": lambda size: f"{size.blocks:,}",
    "shards, an object each": lambda size: f"{size.objects:,}",
    "bytes of a block": lambda size: amount(block_bytes(size)),
    "its smallest shard": lambda size: amount(min(size.shards(size.block_rows))),
    "its mean shard": lambda size: amount(block_bytes(size) / len(size.layouts)),
    "its largest shard": lambda size: amount(max(size.shards(size.block_rows))),
    "bytes of all shards": lambda size: f"{size.shard_bytes:,}",
    "a record, with statistics": lambda size: amount(size.record_bytes),
    "all records, until the end": lambda size: amount(size.record_bytes * size.blocks),
    "the largest marker": lambda size: amount(size.largest_marker),
    "all markers, put once": lambda size: amount(size.marker_bytes),
    "markers that `layertap.save` puts": lambda size: amount(size.rewritten_bytes),
}


def block_bytes(size: Size) -> int:
    """Returns the bytes of all shards of a block."""
    return sum(size.shards(size.block_rows))


_KINDS = ["GET", "PUT", "LIST", "DELETE"]


@cache
def asked() -> Requests:
    """Returns what is asked of a bucket."""
    return Requests.counted()


def _requests() -> Iterator[Row]:
    phases = {
        "driver, to begin": asked().begin,
        "driver, to go on": asked().resume,
        "worker, to begin": asked().worker,
        "worker, for a block": asked().block,
        "driver, at the end": asked().finish,
        "driver, for a block, at the end": asked().record,
    }
    for phase, found in phases.items():
        yield [phase, *(str(found[kind]) for kind in _KINDS)]


def computing(size: Size) -> float:
    """Returns the seconds in which a GPU computes a block."""
    return size.block_rows / ROWS_A_SECOND


def writing(size: Size, at_once: int = 1) -> float:
    """Returns the seconds in which a block is written, by so many of a node at once."""
    waits = math.ceil(asked().block["PUT"] / _PUTS_AT_ONCE) * LATENCY
    return max(waits, block_bytes(size) * at_once / NETWORK)


def saving(size: Size, at_once: int) -> float:
    """Returns the seconds in which all blocks are computed and written."""
    each = computing(size) + writing(size, at_once)
    return math.ceil(size.blocks / WORKERS) * each


def listing(size: Size) -> float:
    """Returns the seconds in which the driver lists all there is, at the end."""
    of_arrays = len(size.layouts)
    of_records = asked().finish["LIST"] - of_arrays
    return (of_records + of_arrays / _LISTS) * pages(size.blocks) * LATENCY


def reading(size: Size) -> float:
    """Returns the seconds in which the driver reads all records."""
    each = (LATENCY / _READERS, RECORD_SECONDS, size.record_bytes / NETWORK)
    return size.blocks * max(each)


def deleting(size: Size) -> float:
    """Returns the seconds in which the driver deletes all records."""
    return size.blocks * LATENCY / _DELETES


def finishing(size: Size) -> float:
    """Returns the seconds in which the driver ends a save."""
    return listing(size) + reading(size) + deleting(size)


def held(size: Size) -> float:
    """Returns the bytes that the driver holds for all blocks."""
    return size.blocks * (HELD + RAY_HELD)


_TIMES: dict[str, Callable[[Size], str]] = {
    "a GPU computes a block in": lambda size: span(computing(size)),
    "it is written in, by one worker of a node": lambda size: span(writing(size)),
    f"or by {GPUS_A_NODE} at once": lambda size: span(writing(size, GPUS_A_NODE)),
    "lost with a worker, at most": lambda size: span(
        computing(size) + writing(size, GPUS_A_NODE)
    ),
    f"{WORKERS} workers compute all rows in": lambda size: span(
        ROWS / ROWS_A_SECOND / WORKERS
    ),
    "with writing, one of a node at a time": lambda size: span(saving(size, 1)),
    f"with writing, {GPUS_A_NODE} at once": lambda size: span(
        saving(size, GPUS_A_NODE)
    ),
    "Ray takes the numbers in": lambda size: span(size.blocks * RAY_GIVEN),
    "the driver ends the save in": lambda size: span(finishing(size)),
    "of that: names": lambda size: span(listing(size)),
    "of that: records": lambda size: span(reading(size)),
    "of that: deleting": lambda size: span(deleting(size)),
    "the driver holds": lambda size: amount(held(size)),
    "a worker holds, of a block": lambda size: amount(
        size.block_rows * sum(spec.row_bytes for spec in specs())
    ),
}

_FULL: dict[str, Callable[[Size], str]] = {
    "the network of a node, by GPUs in it": lambda size: f"{of_node():.0f}",
    "PUTs below a prefix, by workers": lambda size: f"{of_puts(size):,.0f}",
    "GETs below a prefix, by workers": lambda size: f"{of_gets(size):,.0f}",
    "Ray, by workers": lambda size: f"{computing(size) / RAY_SECONDS:,.0f}",
    "the driver's end, by workers": lambda size: f"{of_end(size):,.0f}",
}


def of_node() -> float:
    """Returns how many GPUs fill the network of their node."""
    return NETWORK / ROWS_A_SECOND / sum(spec.row_bytes for spec in specs())


def of_puts(size: Size) -> float:
    """Returns how many workers put as many objects as there may be in a second."""
    return PUTS * computing(size) / asked().block["PUT"]


def of_gets(size: Size) -> float:
    """Returns how many workers get as many objects as there may be in a second."""
    return GETS * computing(size) / asked().block["GET"]


def of_end(size: Size) -> float:
    """Returns how many workers compute all rows while the driver ends the save."""
    return ROWS / ROWS_A_SECOND / finishing(size)


def _by_size(rows: dict[str, Callable[[Size], str]]) -> str:
    found = [Size(memory) for memory in MEMORIES]
    heads = ["`memory=`", *(f"{size.memory // MIB:,} MiB" for size in found)]
    return _table(heads, ([name, *map(told, found)] for name, told in rows.items()))


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def amount(count: float) -> str:
    """Returns a number of bytes, in three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.{_places(count)}f} {unit}"
        count /= 1000
    return f"{count:,.{_places(count)}f} TB"


def span(seconds: float) -> str:
    """Returns how long it takes."""
    if seconds < 100:
        return f"{seconds:.{_places(seconds) - 1 if seconds >= 10 else 2}f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


def _places(count: float) -> int:
    return 2 if count < 9.995 else 1 if count < 99.95 else 0


def main() -> None:
    """Prints the tables, or what is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__
    )
    parser.add_argument("--measure", action="store_true", help="on this machine")
    if parser.parse_args().measure:
        from benchmarks.scale_ray import measured

        print("driver:", Driver.measured(2048 * MIB, 1000))
        print("Ray:", measured())
        return
    for title, table in tables().items():
        print(f"\n{title}\n\n{table}")
    print(f"\nroot: {root_bytes(Size(2048 * MIB).block_rows):,} bytes")


if __name__ == "__main__":
    main()
