"""The costs of handing out blocks with Ray, whatever they compute, as measured."""

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """What each block costs.

    Args:
        seconds: Until a block that costs nothing has come back.
        given: Seconds to hand it over to Ray, before the first one begins.
        held: Bytes of the driver's memory.
    """

    seconds: float
    given: float
    held: float


class Nothing:
    """A worker that does nothing."""

    def __call__(self, numbers: Any) -> dict[str, list[Any]]:
        """Returns what a worker returns of a block."""
        return {"rows": [1], "bytes": [1], "error": [b""]}


def measured(few: int = 1000, many: int = 8000, workers: int = 2) -> Cost:
    """Measures what a block costs, by how much more many take than few."""
    import ray
    import ray.data

    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        # In the first, Ray takes what memory and time it takes for any.
        one, other = (_costs(ray, count, workers) for count in (few, many))
    finally:
        ray.shutdown()
    seconds, given = (b - a for a, b in zip(one[:2], other[:2], strict=True))
    more = many - few
    return Cost(seconds / more, given / more, other.held / many)


def _costs(ray: Any, blocks: int, workers: int) -> Cost:
    """Returns what all blocks cost together."""
    before, begin = _resident(), time.monotonic()
    numbers = ray.data.from_items(
        [{"block": block} for block in range(blocks)], override_num_blocks=blocks
    )
    given = time.monotonic() - begin
    numbers.context.enable_progress_bars = False
    done = numbers.map_batches(
        Nothing,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    assert sum(row["rows"] for row in done.iter_rows()) == blocks
    return Cost(time.monotonic() - begin, given, _resident() - before)


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096
