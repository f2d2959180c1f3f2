"""Whatever happens to a store, in any order: its rows are right, and stay.

The writer is a process of its own, on command, so that it can really be killed.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from layertap.errors import LayertapError, StoreError
from layertap.store.location import exists
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.store_flip_suite import everything_read
from tests.support.store_folder import Folder
from tests.support.store_rows import (
    ARRAYS,
    ROW_BYTES,
    assert_holds,
    complaints,
    contents_of,
    rows_between,
)

pytestmark = pytest.mark.slow

BLOCK = 10
MEMORY = 3 * BLOCK * ROW_BYTES

WRITER = """
import sys
from layertap.store.location import exists
from layertap.store.writing.writer import Writer
from tests.support.store_rows import ARRAYS, reopening_of, rows_between

path, compression, memory = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
writer = None
for line in sys.stdin:
    command, number = line.split()
    if command == "open" and exists(path):
        writer = Writer.resume(path, memory=memory, reopening=reopening_of(path))
    elif command == "open":
        writer = Writer.create(
            path, ARRAYS, {"x": 1}, compression=compression, memory=memory
        )
    elif command == "append":
        writer.append(rows_between(writer.rows, writer.rows + int(number)))
    else:
        getattr(writer, command)()
    print(writer.rows, writer.committed, flush=True)
"""


class StoreMachine(RuleBasedStateMachine):
    """A store, its writer, and all who read it."""

    @initialize(compression=st.sampled_from(["", "zstd"]))
    def begin(self, compression):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "v.zarr"
        self.compression = compression
        self.writer = None
        # Rows that the store must have, and rows that it may have.
        self.least = self.most = 0
        self.complete = False
        self.readers = []

    # The writer.

    def command(self, command, number=0):
        print(command, number, file=self.writer.stdin, flush=True)

    def done(self, command, number=0):
        self.command(command, number)
        self.most, self.least = map(int, self.writer.stdout.readline().split())

    def stop(self):
        with self.writer:
            self.writer.stdin.close()
        status = self.writer.returncode
        self.writer = None
        return status

    @precondition(lambda self: self.writer is None)
    @rule()
    def save_or_resume(self):
        """Begins a store or goes on with it, also if it was complete."""
        self.writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, self.path, self.compression, str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        before = self.least
        self.done("open")
        assert before <= self.most == self.least
        self.complete = False

    @precondition(lambda self: self.writer is not None and not self.complete)
    @rule(rows=st.integers(1, 25))
    def append(self, rows):
        self.done("append", rows)

    @precondition(lambda self: self.writer is not None and not self.complete)
    @rule()
    def commit(self):
        self.done("commit")
        assert self.most == self.least

    @precondition(lambda self: self.writer is not None and not self.complete)
    @rule()
    def finish(self):
        self.done("finish")
        self.complete = True

    @precondition(lambda self: self.writer is not None)
    @rule()
    def close(self):
        self.done("close")
        assert self.stop() == 0

    @precondition(lambda self: self.writer is not None)
    @rule(
        step=st.sampled_from(["commit", "append", "finish", "close"]),
        rows=st.integers(1, 25),
    )
    def kill(self, step, rows):
        """Kills the writer while it does a step, or before, or after."""
        step = "close" if self.complete else step
        self.most += rows if step == "append" else 0
        self.command(step, rows)
        self.writer.kill()
        self.stop()
        if step == "finish":
            self.complete = exists(self.path) and Reader(self.path).complete

    # All others.

    @precondition(lambda self: self.writer is not None)
    @rule()
    def write_at_the_same_time(self):
        process = f"process {self.writer.pid} on "
        if not self.complete:
            with pytest.raises(StoreError, match=process):
                Writer.resume(self.path, memory=MEMORY)

    @precondition(lambda self: self.path.exists())
    @rule()
    def open(self):
        reader = Reader(self.path)
        assert reader.complete == self.complete
        assert self.least <= reader.rows <= self.most
        self.readers.append(reader)

    @precondition(lambda self: self.writer is None and self.path.exists())
    @rule(choice=st.integers(0, 2**32))
    def flip(self, choice):
        place = Folder(self.path)
        names = [name for name in place.names() if place.read(name)]
        name = names[choice % len(names)]
        good, expected = place.read(name), everything_read(self.path)
        bit = choice // len(names) % (8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        place.write(name, bytes(bad))
        with suppress(LayertapError):
            assert everything_read(self.path) == expected, (name, bit)
        place.write(name, good)

    @precondition(lambda self: self.path.exists())
    @rule()
    def verify(self):
        assert complaints(self.path) == {}
        Reader(self.path).check_groups()

    @invariant()
    def what_anybody_sees_is_right(self):
        if self.path.exists():
            rows = Reader(self.path).rows
            assert self.least <= rows <= self.most
            if self.writer is None:
                self.least = self.most = rows
            for reader in self.readers[-3:]:
                for name, expected in rows_between(0, reader.rows).items():
                    assert (reader.array(name)[:] == expected).all()

    def teardown(self):
        if not hasattr(self, "writer"):
            return
        if self.writer is not None:
            self.writer.kill()
            self.stop()
        if self.path.exists():
            self.end()
        self.folder.cleanup()

    def end(self):
        """However it came to be, it ends as if nothing had ever happened."""
        if not self.complete:
            with Writer.resume(self.path, memory=MEMORY) as writer:
                writer.append(rows_between(writer.rows, writer.rows + 13))
                writer.finish()
        rows = Reader(self.path).rows
        assert_holds(Folder(self.path), rows)
        other = Path(self.folder.name) / "once.zarr"
        with Writer.create(
            other,
            ARRAYS,
            {"x": 1},
            compression=self.compression or None,
            memory=MEMORY,
        ) as once:
            once.append(rows_between(0, rows))
            once.finish()
        assert contents_of(Folder(self.path)) == contents_of(Folder(other))


TestStoreMachine = pytest.mark.campaign(StoreMachine.TestCase)
TestStoreMachine.settings = settings(
    max_examples=times(4, 15),
    stateful_step_count=20,
    # Kills come at another moment each time, which can't be made simpler.
    phases=(Phase.reuse, Phase.generate),
)
