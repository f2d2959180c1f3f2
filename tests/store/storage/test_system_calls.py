"""Calls of the system that fail under a store, put there by strace.

A quota is one of them (EDQUOT): few machines have a disk with quotas for a test.
"""

import errno
import os
import shutil

import pytest

from layertap.errors import StoreError
from tests.support.campaign import share
from tests.support.faults import failing, run
from tests.support.faulty_store import (
    ADVICE,
    GO_ON,
    assert_explained,
    assert_goes_on,
    assert_right,
    leave,
)

pytestmark = pytest.mark.slow

# Written files: shards, new `zarr.json` files, and folders.
PLACES = [
    *("a/0/c.1.0.new", "a/1/c.2.new", "a/0/c.4.0.new"),
    *("a/0/zarr.json.new", "a/1/zarr.json.new", "zarr.json.new"),
]
FOLDERS = ["a/0", "a/1", ""]


@pytest.mark.parametrize(
    ("call", "code", "places"),
    share(
        2,
        [
            # A quota, which no file system here has to be used up, and the like.
            ("write,writev,pwrite64,pwritev", "EDQUOT", PLACES),
            ("write,writev,pwrite64,pwritev", "EIO", PLACES),
            ("fsync,fdatasync", "EDQUOT", PLACES),
            ("fsync,fdatasync", "EIO", PLACES + FOLDERS),
            ("rename,renameat,renameat2", "EDQUOT", PLACES),
            ("rename,renameat,renameat2", "EIO", PLACES),
            ("openat", "EDQUOT", PLACES),
            ("openat", "ENFILE", PLACES),
            ("openat", "EPERM", PLACES),
        ],
    ),
)
def test_a_call_of_the_system_that_fails(tmp_path, undisturbed, call, code, places):
    """Calls are made to fail by strace: no file system here has quotas, or breaks."""
    first = leave(tmp_path / "v")
    paths = [shutil.copytree(first, tmp_path / f"v{n}") for n in range(len(places))]
    failed = [path / place for path, place in zip(paths, places, strict=True)]
    output = run(failing({call: f"error={code}"}, failed, GO_ON, *paths))
    assert len(output) == len(places)
    for path, message in zip(paths, output, strict=True):
        assert_explained(StoreError(message), path, code)
        assert_right(path)
        assert_goes_on(path, undisturbed)


READ = """
import sys
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
array = Reader(sys.argv[1]).array("a/0")
for action in (lambda: array[:], lambda: next(array.check())[1]):
    try:
        print(action(), flush=True)
    except StoreError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("mmap", "EIO"),
        ("openat", "EIO"),
        ("openat", "ENFILE"),
        ("fstat,newfstatat", "ESTALE"),
    ],
)
def test_a_call_of_the_system_that_fails_when_rows_are_read(tmp_path, call, code):
    path = leave(tmp_path / "v")
    output = run(failing({call: f"error={code}"}, [path / "a/0/c.0.0"], READ, path))
    assert len(output) == 2
    for message in output:
        assert str(path / "a/0") in message
        assert os.strerror(getattr(errno, code)) in message
        assert ADVICE.get(code, "Fix the cause") in message
    assert_right(path)
