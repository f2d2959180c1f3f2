"""Children that write stores in buckets: each a process that can be killed or paused.

They are forked from one that has imported all they need, which takes a second, and has
not used TensorStore, which can't be forked once it was.
"""

from contextlib import contextmanager
from typing import NamedTuple

from tests.support.faults import other_world, python, running

PROGRAM = """
import os, socket, sys
import tensorstore
from tests.support import faulty_store as t
from layertap.errors import StoreError
from layertap.store.location import exists, remove
from layertap.store.writing.writer import Writer

def resume(path):
    t.write_all(t.resume(path))

def write(path):
    if exists(path):
        resume(path)
    else:
        writer = Writer.create(path, t.ARRAYS, {"x": 1}, memory=t.MEMORY)
        t.write_from_the_start(writer)

if sys.argv[1:]:
    socket.sethostname(*sys.argv[1:])
for line in sys.stdin:
    action, path = line.split()
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        try:
            globals()[action](path)
            print("done", flush=True)
        except StoreError as error:
            print(error, flush=True)
        os._exit(0)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


class Ended(NamedTuple):
    """How a child ended.

    Args:
        said: `"done"`, or the error; empty if it was killed.
        status: Its status, as of `os.waitpid`.
    """

    said: str
    status: int


class Nursery:
    """Has children, one at a time.

    Args:
        process: Their parent.
    """

    def __init__(self, process):
        self._process = process

    def start(self, action, path):
        """Has a child do something with a store, and returns its number."""
        self._process.stdin.write(f"{action} {path}\n")
        return int(self._process.stdout.readline())

    def ended(self):
        """Waits until the child has ended, and returns how."""
        said = []
        while not (line := self._process.stdout.readline()).startswith("ended "):
            assert line
            said.append(line.strip())
        return Ended("\n".join(said), int(line.split()[1]))


@contextmanager
def nursery(host=""):
    """Starts a nursery, on this host or on one of another name."""
    elsewhere = other_world("--uts") if host else []
    with running(elsewhere + python(PROGRAM, *filter(None, [host]))) as process:
        yield Nursery(process)
