"""Freed memory: whether the C library keeps it."""

import platform
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
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    )
    before, after = map(int, answer.stdout.split())
    # Each turn has 2,048 pages.
    assert before > 20_000
    assert after < 2_000
