"""What the backends do for other threads."""

import os
import threading
from pathlib import Path

import keras
import pytest

from layertap.tracing.backends import current_backend
from tests.support.faulty_data import until

pytestmark = pytest.mark.every_backend


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(
    not Path("/proc/self/task").exists()
    or os.environ.get("OMP_NUM_THREADS") == "1"
    or len(os.sched_getaffinity(0)) == 1,
    reason="Linux lists the threads of a process, and one processor has no idle ones.",
)
def test_pytorch_has_more_threads_than_processors_while_a_block_is_written():
    backend, found = current_backend(), []
    # Its own threads, which stay.
    backend.share_processors()

    def write() -> None:
        before = threads()
        backend.share_processors()
        found.append(threads() - before)

    writing = threading.Thread(target=write)
    before = threads()
    writing.start()
    writing.join()
    assert (found[0] > 0) == (keras.backend.backend() == "torch")
    # They end a moment later.
    until(lambda: threads() <= before)
