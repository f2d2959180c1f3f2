"""Counts attempts that workers begin and do not end; Ray alone would retry forever.

After a worker's death, its block is tried again, in case a machine was lost. If the
block itself ends its workers, the attempts need a limit.
"""

from typing import Any

from layertap.errors import LayertapError

MAX_ATTEMPTS = 5
# The task before any block: the start of a worker.
START = -1


class Attempts:
    """An actor of Ray that counts the attempts of a task: a block, or `START`."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, task: int) -> int:
        """Returns how often a task was begun and not ended, with this attempt."""
        self._begun[task] = self._begun.get(task, 0) + 1
        return self._begun[task]

    def end(self, task: int) -> None:
        """Notes that a task is done."""
        if task == START:
            # Other workers may be starting.
            self._begun[START] = max(self._begun.get(START, 0) - 1, 0)
            return
        # A worker that ends a block has started.
        self._begun.pop(task, None)
        self._begun.pop(START, None)


def start_counting(ray: Any) -> Any:
    """Starts an actor that counts attempts as long as a reference to it exists."""
    # It computes nothing. If its node is lost, it begins at 0 on another one.
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(**options)(Attempts).remote()


def check_attempts(dead: int, subject: str) -> None:
    """Raises if too many attempts at a task died; `subject` is what they began."""
    if dead >= MAX_ATTEMPTS:
        raise LayertapError(
            f"{subject} {dead} times, and died each time without an error: the system "
            "or native code ended the process. The usual cause is a lack of memory. "
            "Pass a smaller batch_size, or a larger num_cpus for fewer workers a node."
        )
