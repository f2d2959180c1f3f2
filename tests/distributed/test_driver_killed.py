"""A save whose driver was killed or stopped resumes, and computes missing blocks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

import layertap.distributed
from tests.support import driver
from tests.support import faulty_data as faulty
from tests.support.campaign import share
from tests.support.processes import environment
from tests.support.same_store import assert_same

pytestmark = pytest.mark.ray

BLOCK = faulty.BLOCK
# Batches that no process reads as it opens the data.
INNER = set(range(1, faulty.BATCHES - 1))


@pytest.fixture
def start(cluster, data, tmp_path):
    """Starts a driver, in the tests' cluster or with its own Ray."""
    running = []

    def start(path, workers=2, own=False):
        job = {"path": str(path), "folder": str(data.folder), "workers": workers}
        job["address"] = None if own else cluster
        command = [sys.executable, driver.__file__, json.dumps(job)]
        with (tmp_path / "output").open("w") as output:
            running.append(subprocess.Popen(command, stdout=output, stderr=output))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def recorded(path):
    """Returns the blocks that have a record."""
    names = [file.name for file in (path / "~blocks").glob("*.*")]
    return {int(name.split(".")[0]) for name in names if name[-1].isdigit()}


def batches_of(blocks):
    """Returns the batches of some blocks; blocks are complete batches."""
    return {batch for n in blocks for batch in (2 * n, 2 * n + 1)}


def save(model, data, path, **options):
    options = faulty.OPTIONS | options
    return layertap.distributed.save(model, data, path, **options)


def others(data, *processes):
    """Returns the processes that have read data, except some."""
    return {process for process, _ in faulty.read_by(data.folder)} - {*processes}


def stand_still(process, data, path, blocks):
    """Waits until a number of blocks is recorded, and both workers wait."""

    def still():
        output = (data.folder.parent / "output").read_text()
        assert process.poll() is None, f"the driver has ended: {output}"
        waiting = len(list(data.folder.glob("waiting-*")))
        return len(recorded(path)) >= blocks and waiting == 2

    try:
        faulty.until(still)
    except AssertionError as error:
        read = sorted(faulty.read_by(data.folder))
        error.add_note(f"recorded: {sorted(recorded(path))}, read by: {read}")
        raise


@pytest.mark.parametrize(
    ("wait_at", "blocks"), share(2, [(faulty.HELD, 5), (range(1, 16, 2), 0)])
)
def test_others_resume_after_a_killed_driver(
    model, data, local, tmp_path, start, wait_at, blocks
):
    path = tmp_path / "v.zarr"
    for batch in wait_at:
        faulty.instruct(data.folder, batch, "wait")
    process = start(path)
    stand_still(process, data, path, blocks)
    process.kill()
    process.wait()
    faulty.release(data.folder)
    # Its workers end with it.
    left = others(data, process.pid)
    assert left
    faulty.until(lambda: not any(map(faulty.alive, left)))
    there = recorded(path)
    assert layertap.open(path).rows == 0
    alone = shutil.copytree(path, tmp_path / "alone.zarr")

    (data.folder / "log").unlink()
    save(model, data, path, workers=1)
    assert_same(path, local)
    computed = {n for p, n in faulty.read_by(data.folder) if p != os.getpid()} & INNER
    assert computed == INNER - batches_of(there)

    # One process can resume, too, after the first blocks without a gap.
    follow = next(n for n in range(16) if n not in there) * BLOCK
    done = []
    progress = {"progress": lambda rows, _: done.append(rows)}
    layertap.save(model, data, alone, **faulty.OPTIONS | progress)
    assert done[0] in (follow, follow + faulty.BATCH)
    assert_same(alone, local)


@pytest.mark.parametrize(
    ("number", "statuses", "own"),
    # The exit status of `SystemExit`, and of an error that is not caught.
    share(
        2,
        [
            (signal.SIGTERM, {143}, False),
            (signal.SIGINT, {1, 130, -signal.SIGINT}, True),
        ],
    ),
)
def test_a_signal_ends_a_save_in_order_and_its_rows_count(
    model, data, local, tmp_path, start, number, statuses, own, capsys
):
    path = tmp_path / "v.zarr"
    for batch in faulty.HELD:
        faulty.instruct(data.folder, batch, "wait")
    process = start(path, own=own)
    stand_still(process, data, path, 5)
    process.send_signal(number)
    status, output = process.wait(60), (tmp_path / "output").read_text()
    assert status in statuses, output
    # Keras would import TensorFlow to save the model for workers.
    assert "imported: []\n" in output
    left = others(data, process.pid)
    faulty.until(lambda: not any(map(faulty.alive, left)))
    saved = layertap.open(path)
    there = recorded(path)
    follow = next(n for n in range(16) if n not in there) * BLOCK
    assert saved.rows == follow > 0
    assert layertap.verify(saved)
    kept, total = len(there), faulty.ROWS // BLOCK
    rows = f"{kept * BLOCK} of {faulty.ROWS} rows"
    if number == signal.SIGINT:
        # A worker may have ended a block that the driver did not wait for.
        (said,) = re.findall(
            r"At least (\d+) of 15 blocks, (\d+) of 300 rows, are", output
        )
        safe = int(said[0])
        assert kept - 2 <= safe <= kept
        assert int(said[1]) == safe * BLOCK
        assert f" rows, are safe in {path}." in output
    faulty.release(data.folder)
    capsys.readouterr()
    save(model, data, path, workers=1, progress=True)
    said = capsys.readouterr().err
    assert f"{kept} of {total} blocks, {rows}, are there; computing the others" in said
    files = (total - kept) * (1 + len(saved.reader.paths))
    assert (
        f"Writing {total - kept} blocks, each of up to 20 rows: {files} files" in said
    )
    missing = f"{total - kept} ({(total - kept) * BLOCK} rows)"
    assert f"Kept {kept} blocks ({kept * BLOCK} rows), computed {missing}." in said
    assert_same(path, local)


SAVE = """
import sys, layertap
from tests.support import faulty_data
data = faulty_data.Faulty(sys.argv[2])
layertap.save(faulty_data.model(), data, sys.argv[1], **faulty_data.OPTIONS)
"""


def test_many_workers_resume_the_save_of_one_killed_process(
    model, data, local, tmp_path
):
    path = tmp_path / "v.zarr"
    faulty.instruct(data.folder, 22, "kill")
    command = [sys.executable, "-c", SAVE, path, data.folder]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == faulty.KILLED, done.stderr
    rows = layertap.open(path).rows
    assert 0 < rows < 220
    assert rows % BLOCK == 0
    (data.folder / "log").unlink()
    save(model, data, path, workers=2)
    assert_same(path, local)
    computed = {n for p, n in faulty.read_by(data.folder) if p != os.getpid()} & INNER
    assert computed == {n for n in INNER if n >= rows // faulty.BATCH}
