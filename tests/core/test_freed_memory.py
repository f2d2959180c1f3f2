"""Freed memory: whether the C library keeps it."""

import os
import platform
import resource
import subprocess
import sys

import pytest

# Arrays of 2 MiB, written and freed in turn, as a pass does with its tensors.
PROGRAM = """
import resource

import numpy as np

from layertap.core.freed_memory import keep_freed_memory

def pages():
    def used():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = used()
    for _ in range(20):
        arrays = [np.ones(2**18) for _ in range(4)]
        del arrays
    return used() - before

before = pages()
keep_freed_memory()
pages()
print(before, pages())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="Only glibc learns: it is on Linux."
)
def test_memory_that_batches_freed_is_not_fetched_again():
    chosen = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {n: v for n, v in os.environ.items() if not n.startswith(chosen)}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        check=True,
        text=True,
        env=environment,
    )
    before, after = map(int, answer.stdout.split())
    assert before > 20 * 4 * 2**21 / resource.getpagesize() / 2
    assert after < before / 10
