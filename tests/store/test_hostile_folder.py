"""Nothing outside of its folder is read, written or deleted for a store."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layertap.store import Writer
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import read_root
from layertap.store.storage.files import LocalStorage
from tests.support.hostile import Store, make

ROOT = Path(__file__).parents[2]
OUTSIDE = "outside"
NAMES = [
    *(f"../{OUTSIDE}", f"fusion/../../{OUTSIDE}", f"./../{OUTSIDE}", "..", "."),
    *("/etc", "//etc", "", "fusion//in", "zarr.json", "fusion/zarr.json"),
]

# Does an action on a store, and prints the paths that Python opened or changed.
DO = """
import os, sys
import layertap, layertap.results.saved, layertap.cli
from layertap.errors import LayertapError
from layertap.store import Writer, exists, remove
from tests.store.test_hostile_folder import resume
from tests.support import hostile

def seen(event, args):
    # Relative paths belong to a folder that was opened by an absolute path.
    if event == "open" or event.startswith(("os.", "shutil.")):
        paths = [arg for arg in args[:2] if isinstance(arg, str) and os.path.isabs(arg)]
        touched.extend(paths if watching else [])

def use(path):
    hostile.use(path, without=["verify"])

touched, watching = [], []
action = {"use": use, "resume": resume, "exists": exists, "remove": remove}[sys.argv[1]]
# First, to import all modules that are imported when they are needed.
hostile.click.testing.CliRunner().invoke(layertap.cli.main, ["show", sys.argv[2] + "-"])
hostile.use(sys.argv[3], without=["verify"])
sys.addaudithook(seen)
watching.append(True)
try:
    action(sys.argv[2])
    ended = "done"
except LayertapError:
    ended = "refused"
watching.clear()
print(hostile.json.dumps([sorted(set(map(os.path.realpath, touched))), ended]))
"""


def resume(path):
    with Writer.resume(path) as writer:
        rows = {
            layout.spec.path: np.ones((1, *layout.spec.shape), layout.spec.numpy_dtype)
            for layout in read_layouts(
                LocalStorage(path), read_root(LocalStorage(path))
            )
        }
        writer.append(rows)
        writer.commit()


class Watch:
    """Detects any access to a folder, by any call."""

    def __init__(self, folder):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = self._libc.inotify_init1(os.O_NONBLOCK)
        # Read, written, attributes, moved, opened, made, deleted.
        wanted = 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200
        added = self._libc.inotify_add_watch(self._events, os.fsencode(folder), wanted)
        assert added > 0

    def seen(self):
        try:
            return len(os.read(self._events, 2**16))
        except BlockingIOError:
            return 0

    def close(self):
        os.close(self._events)


@pytest.fixture
def store(tmp_path):
    make(tmp_path / "v", complete=False)
    make(tmp_path / "other")
    return Store(tmp_path / "v")


@pytest.fixture
def outside(tmp_path):
    """A folder next to the store, with secrets."""
    folder = tmp_path / OUTSIDE
    folder.mkdir()
    (folder / "zarr.json").write_text('{"secret": 1}')
    (folder / "c.0").write_text("secret")
    return folder


@pytest.fixture
def watch(outside):
    watch = Watch(outside)
    yield watch
    watch.close()


def test_the_watch_detects_access(outside, watch):
    assert not watch.seen()
    (outside / "c.0").read_bytes()
    assert watch.seen()
    assert not watch.seen()
    (outside / "new").touch()
    assert watch.seen()


def do(action, store):
    """Does an action on a store.

    Returns:
        The paths outside of it that Python used, and whether it was done or refused.
    """
    parent = store.path.parent
    done = subprocess.run(
        [sys.executable, "-c", DO, action, str(store.path), str(parent / "other")],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    touched, ended = json.loads(done.stdout.splitlines()[-1])
    # Python's own files; and a half deleted store has a name like the store's.
    source = str(ROOT / "src")
    own = (sys.prefix, sys.base_prefix, source, "/usr/lib", "/dev", "/proc")
    mine = (str(store.path), f"{parent}/.v.")
    paths = {path for path in touched if not path.startswith(own + mine)}
    return paths - {str(parent)}, ended


ACTIONS = ["use", "resume", "exists", "remove"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_valid_store(store, outside, watch, action):
    paths, ended = do(action, store)
    assert not paths
    assert ended == "done"
    assert not watch.seen()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_arrays_that_lead_out(store, outside, watch, name):
    before = everything(outside)
    assert watch.seen()
    for action in ACTIONS:
        store.reset()
        ours = store.ours()
        ours["arrays"] = [*ours["arrays"], name]
        ours["plan"]["outputs"][0]["address"] = name
        ours["identity"]["labels"] = name
        store.put_root(ours)
        paths, _ = do(action, store)
        assert not paths
        assert not watch.seen()
    assert everything(outside) == before


LINKED = {
    "the root": "zarr.json",
    "an array": "ids/zarr.json",
    "a group": "fusion/zarr.json",
    "a shard": "ids/c.0.0",
    "the last shard": "ids/c.2.0",
    "a missing shard": "ids/c.9.0",
    "a new shard": "ids/c.2.0.new",
    "a new root": "zarr.json.new",
    "new metadata of an array": "ids/zarr.json.new",
    "a folder of an array": "ids",
    "a folder of a group": "fusion",
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("linked", LINKED.values(), ids=LINKED)
def test_links_that_lead_out(store, outside, linked, action):
    """They lead to the right file, or else to a secret."""
    file, target = store.path / linked, outside / "target"
    if file.exists():
        file.rename(target)
    else:
        target.write_text("secret")
    file.symlink_to(target)
    before = everything(outside)
    watch = Watch(target if target.is_dir() else outside)
    do(action, store)
    seen = watch.seen()
    watch.close()
    assert not seen
    assert everything(outside) == before


PIPES = ["zarr.json", "ids/zarr.json", "fusion/zarr.json", "ids/c.0.0", "ids/c.9.0"]


@pytest.mark.parametrize("name", PIPES)
def test_pipes_do_not_block(store, name):
    """Opening a pipe would wait for another process to open its other end."""
    for action in ACTIONS:
        store.reset()
        (store.path / name).unlink(missing_ok=True)
        os.mkfifo(store.path / name)
        do(action, store)


def everything(folder):
    return {
        str(file): file.read_bytes() if file.is_file() else None
        for file in sorted(folder.rglob("*"))
    }
