"""Many workers write to an object store that fails, answers late, or is cut off."""

import json
import os
import signal
import subprocess
import sys

import pytest

import layertap.distributed
from tests.support import driver, object_proxy
from tests.support import faulty_data as faulty
from tests.support.same_store import assert_same
from tests.support.store_bucket import Bucket

pytestmark = pytest.mark.ray


@pytest.fixture
def place(object_store, s3, monkeypatch):
    """The place of a new store, in a bucket of its own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    yield Bucket.new(object_store)
    with s3.lock:
        s3.fate = lambda request: object_proxy.served


def save(model, data, place, **options):
    options = faulty.OPTIONS | {"workers": 2} | options
    return layertap.distributed.save(model, data, place.path, **options)


def records(place):
    return [name for name in place.names() if name.startswith("~blocks/")]


class Weather:
    """Refuses, drops, delays or does not answer some requests, in turn."""

    def __init__(self):
        self.harmed = dict.fromkeys(("refused", "dropped", "unanswered", "late"), 0)

    def __call__(self, request):
        fates = {
            3: ("refused", object_proxy.refused(503, "SlowDown")),
            7: ("late", object_proxy.late),
            12: ("dropped", object_proxy.dropped),
            17: ("unanswered", object_proxy.unanswered),
        }
        name, fate = fates.get(request.number % 19, (None, object_proxy.served))
        if name:
            self.harmed[name] += 1
        return fate


@pytest.mark.campaign(alone=True)
def test_errors_late_and_lost_answers(model, data, local, place, s3):
    weather = Weather()
    s3.fate = weather
    save(model, data, place)
    s3.fate = lambda request: object_proxy.served
    assert all(count >= 2 for count in weather.harmed.values()), weather.harmed
    assert_same(place, local)
    assert records(place) == []


def test_workers_killed_in_mid_block_and_between_shards_and_record(
    model, data, local, place, s3
):
    faulty.instruct(data.folder, 9, "kill")
    killed = []

    def fate(request):
        if request.command == "PUT" and "/~blocks/" in request.path and not killed:
            if request.path.endswith("zarr.json"):
                return object_proxy.served
            readers = {process for process, _ in faulty.read_by(data.folder)}
            killed.extend(p for p in readers - {os.getpid()} if faulty.alive(p))
            return kill_them
        return object_proxy.served

    def kill_them(request):
        for process in killed:
            os.kill(process, signal.SIGKILL)
        request.hang_up()

    s3.fate = fate
    save(model, data, place)
    assert killed
    assert_same(place, local)


@pytest.mark.campaign(alone=True)
def test_a_driver_that_is_killed_and_started_again(
    model, data, local, place, cluster, tmp_path
):
    for batch in faulty.HELD:
        faulty.instruct(data.folder, batch, "wait")
    job = {"path": place.path, "folder": str(data.folder), "workers": 2}
    command = [sys.executable, driver.__file__, json.dumps(job | {"address": cluster})]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        waiting = data.folder.glob
        faulty.until(lambda: len(list(waiting("waiting-*"))) == 2)
    finally:
        process.kill()
        process.wait()
    left = {process for process, _ in faulty.read_by(data.folder)}
    faulty.until(lambda: not any(faulty.alive(p) for p in left - {os.getpid()}))
    there = {int(name.split("/")[1].split(".")[0]) for name in records(place)[:-1]}
    assert there
    faulty.release(data.folder)
    (data.folder / "log").unlink()
    save(model, data, place, workers=1)
    assert_same(place, local)
    read = {n for p, n in faulty.read_by(data.folder) if p != os.getpid()}
    done = {batch for n in there for batch in (2 * n, 2 * n + 1)}
    inner = set(range(1, faulty.BATCHES - 1))
    assert read & inner == inner - done
