"""A store that claims to be huge, with right digests, uses little memory.

TensorStore ends a process that runs out of memory. So each store is opened in a
process of its own, whose memory is limited.
"""

import subprocess
import sys
from dataclasses import replace

import pytest

from layertap.store.format.layout import ArraySpec
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import read_root
from layertap.store.format.zarr_json import to_json
from layertap.store.storage.files import LocalStorage
from layertap.store.writing.writer import Writer

pytestmark = pytest.mark.slow

TRY_EVERYTHING = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer

def array():
    return Reader(sys.argv[1]).array("a")

def check():
    for _, error in array().check():
        if error is not None:
            raise error

for name, action in {
    "open": array,
    "sizes": lambda: Reader(sys.argv[1]).sizes(),
    "no rows": lambda: array()[:0],
    "first row": lambda: array()[:1],
    "all rows": lambda: array()[:],
    "check": check,
    "resume": lambda: Writer.resume(sys.argv[1]).close(),
}.items():
    try:
        action()
        print(name, "fine", sep=": ", flush=True)
    except StoreError:
        print(name, "refused", sep=": ", flush=True)
    except BaseException as error:
        print(name, repr(error), sep=": ", flush=True)
"""


def claim(path, *, shape=(), size=None, **layout):
    """Makes a store that claims other sizes than it has, with right digests.

    Args:
        path: The path of the store.
        shape: The shape of one row.
        size: The bytes of the file of the first block, a hole; None for no file.
        layout: Other claims of its array.
    """
    Writer.create(path, [ArraySpec("a", (), "uint8")], {}).close()
    (honest,) = read_layouts(LocalStorage(path), read_root(LocalStorage(path)))
    claimed = replace(honest, spec=ArraySpec("a", shape, "uint8"), **layout)
    claimed = replace(claimed, digests="0" * 16 * min(claimed.blocks, 2**16))
    (path / "a/zarr.json").write_bytes(to_json(claimed.metadata()))
    if size is not None:
        with (path / "a" / claimed.shard_name(0)).open("wb") as shard:
            shard.truncate(size)


def outcomes(path):
    """Returns the results of all actions on an array, by name."""
    done = subprocess.run(
        [sys.executable, "-c", TRY_EVERYTHING, str(path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


REFUSED = {
    "more rows than can be counted": {"rows": 2**63},
    "rows without digests": {"rows": 2**62 - 2, "block_rows": 4, "chunk_rows": 4},
    "a huge block": {"rows": 1, "block_rows": 2**40, "chunk_rows": 2**20},
    "a huge block without rows": {"rows": 0, "block_rows": 2**40, "chunk_rows": 2**20},
    "a huge chunk": {"rows": 1, "block_rows": 2**30, "chunk_rows": 2**30},
    "chunks in parts": {"rows": 1, "block_rows": 10, "chunk_rows": 4},
    "chunks larger than blocks": {"rows": 1, "block_rows": 4, "chunk_rows": 8},
    "no rows in a chunk": {"rows": 1, "block_rows": 4, "chunk_rows": 0},
    "too many axes": {"shape": (1,) * 40},
}


@pytest.mark.parametrize("claimed", REFUSED.values(), ids=REFUSED)
def test_impossible_sizes_are_refused_at_once(tmp_path, claimed):
    claim(tmp_path / "v", **claimed)
    assert set(outcomes(tmp_path / "v").values()) == {"refused"}


BLOCK = {"block_rows": 2**24, "chunk_rows": 2**22}
ROW = {"block_rows": 1, "chunk_rows": 1}
# Files that are large enough are holes.
HUGE = {
    "rows, and no file": {"rows": 2**40, **BLOCK},
    "rows, and a large file": {"rows": 2**40, "size": 2**24 + 2**10, **BLOCK},
    "a row, and no file": {"rows": 1, "shape": (2**40,), **ROW},
    "a row, and a large file": {
        **{"rows": 1, "shape": (2**40,), "size": 2**40 + 2**10},
        **ROW,
    },
    "a row, compressed": {
        **{"rows": 1, "shape": (2**40,), "size": 2**26, "compression": "zstd"},
        **ROW,
    },
    "a row that can't be counted": {"rows": 1, "shape": (2**70,), **ROW},
    "a row of axes that can't be counted": {"rows": 1, "shape": (2**62,) * 3, **ROW},
}


WITHOUT_ROWS = {
    "no row": {"rows": 0, "shape": (2**40,), **ROW},
    "no row that can't be counted": {"rows": 0, "shape": (2**70,), **ROW},
    "no row of axes that can't be counted": {"rows": 0, "shape": (2**62,) * 3, **ROW},
}


@pytest.mark.parametrize("claimed", HUGE.values(), ids=HUGE)
def test_huge_rows_are_refused_when_they_are_read(tmp_path, claimed):
    claim(tmp_path / "v", **claimed)
    results = outcomes(tmp_path / "v")
    assert "resume" in results
    assert set(results.values()) <= {"refused", "fine"}, results
    if results["open"] == "fine":
        assert {results[name] for name in ("first row", "all rows", "check")} == {
            "refused"
        }


@pytest.mark.parametrize("claimed", WITHOUT_ROWS.values(), ids=WITHOUT_ROWS)
def test_huge_rows_without_any_row(tmp_path, claimed):
    claim(tmp_path / "v", **claimed)
    results = outcomes(tmp_path / "v")
    assert "resume" in results
    assert set(results.values()) <= {"refused", "fine"}, results


LARGE = {
    "a row": {"rows": 1, "shape": (5 * 2**29,), "size": 5 * 2**29 + 24, **ROW},
    "an index": {"rows": 1, "block_rows": 2**29, "chunk_rows": 1, "size": 2**33 + 9},
}


@pytest.mark.parametrize("claimed", LARGE.values(), ids=LARGE)
def test_files_that_fill_the_memory_do_not_end_the_process(tmp_path, claimed):
    """The values would fit, but not all bytes that TensorStore reads for them."""
    claim(tmp_path / "v", **claimed)
    results = outcomes(tmp_path / "v")
    assert set(results.values()) <= {"refused", "fine"}, results
    assert results["check"] == "refused"
