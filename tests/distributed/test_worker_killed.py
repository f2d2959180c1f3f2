"""A save is completed although its workers are killed, at any point."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import layertap.distributed
from tests.support import faulty_data as faulty
from tests.support import nodes
from tests.support.processes import environment
from tests.support.same_store import assert_same

pytestmark = pytest.mark.ray


def save(model, data, path, **options):
    return layertap.distributed.save(model, data, path, **faulty.OPTIONS | options)


def test_the_compared_store_is_right(model, local):
    """The store that all tests here compare with has the true values."""
    saved = layertap.open(local)
    x = faulty.inputs()
    for number, name in enumerate(("d1", "d2")):
        kernel, bias = model.get_layer(name).get_weights()
        values = saved[f"fusion/in/{number}"][:]
        np.testing.assert_allclose(values, x @ kernel + bias, rtol=1e-4, atol=1e-5)
    assert saved.labels[:].tolist() == list(range(faulty.ROWS))
    assert saved.ids.tolist() == faulty.OPTIONS["ids"]
    assert saved.reader.block_rows == faulty.BLOCK


def test_workers_killed_in_mid_block_and_at_each_step_of_writing(
    model, data, local, tmp_path
):
    path = tmp_path / "v.zarr"
    # In mid-block; with some shards in place; with all, without a record; with one.
    moments = {5: "kill", 11: "os.rename", 17: "os.link", 23: "os.remove"}
    for batch, moment in moments.items():
        faulty.instruct(data.folder, batch, moment)
    save(model, data, path, workers=2)
    assert_same(path, local)
    killed = {file.name.rpartition("-")[2] for file in data.folder.glob("followed-*")}
    assert len(list(data.folder.glob("followed-*"))) == len(moments)
    assert not any(faulty.alive(int(process)) for process in killed)
    assert len(killed) >= 3


@pytest.mark.campaign(alone=True)
def test_all_workers_killed_at_once(model, data, local, tmp_path):
    path = tmp_path / "v.zarr"
    mine = os.getpid()

    def kill_all(rows, written):
        if rows >= 120 and not killed:
            killed.update(p for p, _ in faulty.read_by(data.folder) if p != mine)
            for process in killed:
                os.kill(process, signal.SIGKILL)

    killed = set()
    save(model, data, path, workers=2, progress=kill_all)
    assert killed
    assert_same(path, local)
    others = {process for process, _ in faulty.read_by(data.folder)} - killed - {mine}
    assert others


@pytest.mark.campaign(alone=True)
def test_a_block_that_always_kills_its_worker_ends_the_save(
    model, data, local, tmp_path
):
    path = tmp_path / "v.zarr"
    faulty.instruct(data.folder, 13, "always")
    with pytest.raises(
        layertap.LayertapError, match=r"Block \d+ \(rows .*begun 5 times"
    ):
        save(model, data, path, workers=1)
    (data.folder / "instruction-13").unlink()
    save(model, data, path, workers=1)
    assert_same(path, local)


@pytest.mark.campaign(alone=True)
def test_one_of_two_nodes_is_lost(data, local, tmp_path):
    path = tmp_path / "v.zarr"
    done = subprocess.run(
        [sys.executable, nodes.__file__, path, data.folder],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (lost,) = (line for line in done.stdout.splitlines() if line.startswith("lost"))
    # Two of three workers ran on it.
    assert len(lost.split()) == 3
    assert_same(path, local)
