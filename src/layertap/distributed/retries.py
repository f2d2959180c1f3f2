"""What workers begin and do not end: counted, or Ray would try it again for ever.

A worker that dies is started anew, and so is its block, which is right where a machine
was lost. Where the block itself is what it dies of, there has to be an end.
"""

from typing import Any

from layertap.errors import LayertapError

# So often the same may be begun.
MOST = 5
# What is begun before any block: the worker itself.
START = -1


class Attempts:
    """Counts what was begun, as an actor of Ray's that all workers call."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, what: int) -> int:
        """Returns how often it was begun by now and not ended.

        Args:
            what: The number of a block, or `START`.
        """
        self._begun[what] = self._begun.get(what, 0) + 1
        return self._begun[what]

    def end(self, what: int) -> None:
        """Notes that what was begun is done.

        Args:
            what: As of `begin`.
        """
        if what == START:
            # Others may be starting.
            self._begun[START] = max(self._begun.get(START, 0) - 1, 0)
            return
        # Who ends a block could start.
        self._begun.pop(what, None)
        self._begun.pop(START, None)


def counted(ray: Any) -> Any:
    """Starts to count.

    Args:
        ray: Ray.

    Returns:
        What workers take, which counts as long as somebody has it.
    """
    # It computes nothing. If its node is lost, it begins at 0 on another one.
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(**options)(Attempts).remote()


def check(times: int, what: int, rows: range, workers: int) -> None:
    """Raises if something was begun too often.

    Args:
        times: How often.
        what: As of `Attempts.begin`.
        rows: The rows of the block.
        workers: How many workers may be starting at a time.

    Raises:
        LayertapError: If so.
    """
    if what == START:
        if times <= MOST + workers:
            return
        found = "Workers were started"
        times -= workers
    elif times <= MOST:
        return
    else:
        times -= 1
        found = f"Block {what} (rows {rows.start} to {rows.stop - 1}) was begun"
    raise LayertapError(
        f"{found} {times} times, and died each time without an error: the system or "
        "native code has ended them. Mostly that is for want of memory; if so, take a "
        "smaller batch_size, or fewer workers on each node by a larger num_cpus."
    )
