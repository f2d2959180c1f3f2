"""Nothing outside of its folder is read, written or deleted for a store."""

import ctypes
import os
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import read_root
from layertap.store.storage.files import LocalStorage
from layertap.store.writing.writer import Writer
from tests.support.campaign import share
from tests.support.forks import Forks
from tests.support.hostile import Store, make

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OUTSIDE = "outside"
NAMES = [
    *(f"../{OUTSIDE}", f"fusion/../../{OUTSIDE}", f"./../{OUTSIDE}", "..", "."),
    *("/etc", "//etc", "", "fusion//in", "zarr.json", "fusion/zarr.json"),
]

# Does an action on a store, and returns the paths that Python opened or changed.
DO = """
import signal
import layertap, layertap.results.saved, layertap.cli
from layertap.errors import LayertapError
from layertap.store.location import exists, remove
from layertap.store.writing.writer import Writer
from tests.store.test_hostile_folder import resume
from tests.support import hostile

def use(path):
    hostile.use(path, without=["verify"])

def do(action, path):
    touched, watching = [], [True]

    def seen(event, args):
        # Relative paths belong to a folder that was opened by an absolute path.
        if event == "open" or event.startswith(("os.", "shutil.")):
            paths = [a for a in args[:2] if isinstance(a, str) and os.path.isabs(a)]
            touched.extend(paths if watching else [])

    # Ends a process that waits.
    signal.alarm(20)
    sys.addaudithook(seen)
    try:
        globals()[action](path)
        ended = "done"
    except LayertapError:
        ended = "refused"
    watching.clear()
    return sorted(set(map(os.path.realpath, touched))), ended

# First, to import all modules that are imported when they are needed.
hostile.click.testing.CliRunner().invoke(layertap.cli.main, ["show", sys.argv[1] + "-"])
use(sys.argv[1])
"""


@pytest.fixture(scope="module")
def doer(tmp_path_factory):
    """Does actions on stores, each in a process of its own."""
    path = tmp_path_factory.mktemp("other") / "v"
    make(path)
    doer = Forks(DO, str(path))
    yield doer
    doer.close()


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


def do(doer, action, store):
    """Does an action on a store.

    Returns:
        The paths outside of it that Python used, and whether it was done or refused.
    """
    parent = store.path.parent
    touched, ended = doer.call("do", action, str(store.path))
    # Python's own files; and a half deleted store has a name like the store's.
    source = str(ROOT / "src")
    own = (sys.prefix, sys.base_prefix, source, "/usr/lib", "/dev", "/proc")
    mine = (str(store.path), f"{parent}/.v.")
    paths = {path for path in touched if not path.startswith(own + mine)}
    return paths - {str(parent)}, ended


ACTIONS = ["use", "resume", "exists", "remove"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_valid_store(doer, store, outside, watch, action):
    paths, ended = do(doer, action, store)
    assert not paths
    assert ended == "done"
    assert not watch.seen()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_arrays_that_lead_out(doer, store, outside, watch, name):
    before = everything(outside)
    assert watch.seen()
    for action in ACTIONS:
        store.reset()
        ours = store.ours()
        ours["arrays"] = [*ours["arrays"], name]
        ours["plan"]["outputs"][0]["address"] = name
        ours["identity"]["labels"] = name
        store.put_root(ours)
        paths, _ = do(doer, action, store)
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


@pytest.mark.parametrize(
    ("linked", "action"), share(3, [*product(LINKED.values(), ACTIONS)])
)
def test_links_that_lead_out(doer, store, outside, linked, action):
    """They lead to the right file, or else to a secret."""
    file, target = store.path / linked, outside / "target"
    if file.exists():
        file.rename(target)
    else:
        target.write_text("secret")
    file.symlink_to(target)
    before = everything(outside)
    watch = Watch(target if target.is_dir() else outside)
    do(doer, action, store)
    seen = watch.seen()
    watch.close()
    assert not seen
    assert everything(outside) == before


PIPES = ["zarr.json", "ids/zarr.json", "fusion/zarr.json", "ids/c.0.0", "ids/c.9.0"]


@pytest.mark.parametrize("name", PIPES)
def test_pipes_do_not_block(doer, store, name):
    """Opening a pipe would wait for another process to open its other end."""
    for action in ACTIONS:
        store.reset()
        (store.path / name).unlink(missing_ok=True)
        os.mkfifo(store.path / name)
        do(doer, action, store)


def everything(folder):
    return {
        str(file): file.read_bytes() if file.is_file() else None
        for file in sorted(folder.rglob("*"))
    }
