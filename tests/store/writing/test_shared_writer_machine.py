"""Many write a store, in any order, and are killed: its rows are right, and it ends.

Whoever is killed is a process of its own, and ends at one of the things that it asks
the system for in the store.
"""

import os
import signal
import sys
import tempfile
from functools import partial
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

from layertap.errors import StoreError
from layertap.store.reading.reader import Reader
from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.store_folder import Folder
from tests.support.store_rows import (
    ARRAYS,
    ROW_BYTES,
    assert_holds,
    complaints,
    contents_of,
    reopening_of,
    rows_between,
)

pytestmark = pytest.mark.slow

BLOCK = 10
MEMORY = 3 * BLOCK * ROW_BYTES
EVENTS = ("os.rename", "os.remove", "os.link", "os.mkdir", "open", "shutil.rmtree")


def killed_at(event, folder, action):
    """Does something in a process of its own, which is killed at the n-th event.

    Returns:
        Whether it was done before.
    """
    process = os.fork()
    if not process:
        seen = 0

        def audit(name, arguments):
            nonlocal seen
            if name in EVENTS and str(folder) in str(arguments[0]):
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(audit)
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


class ScatteredMachine(RuleBasedStateMachine):
    """A store, who has it, and those who write blocks of it."""

    @initialize(rows=st.integers(1, 60), compression=st.sampled_from([None, "zstd"]))
    def begin(self, rows, compression):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "v"
        self.rows, self.compression = rows, compression
        # Blocks that are written, blocks that may be, and rows that count.
        self.there, self.perhaps, self.least = set(), set(), 0
        self.complete = False
        self.writer = SharedWriter.create(
            self.path,
            ARRAYS,
            {"x": 1},
            rows=rows,
            memory=MEMORY,
            compression=compression,
        )

    def write(self, block):
        worker = BlockWorker(self.writer.claim)
        rows = worker.rows_of(block)
        part = worker.begin(block)
        part.append(rows_between(part.end, rows.stop))
        worker.write(part, {"of": block})

    def lose(self):
        """The process that has the store is killed: the system lets go of it."""
        self.writer._location.release()
        self.writer = None

    @precondition(lambda self: self.writer is not None)
    @rule(number=st.integers(0, 100))
    def write_a_block(self, number):
        block = number % self.writer.blocks
        self.write(block)
        self.there.add(block)

    @precondition(lambda self: self.writer is not None)
    @rule(number=st.integers(0, 100), event=st.integers(1, 45))
    def kill_who_writes_a_block(self, number, event):
        block = number % self.writer.blocks
        done = killed_at(event, self.path, lambda: self.write(block))
        (self.there if done else self.perhaps).add(block)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def missing(self):
        missing = set(self.writer.missing())
        every = set(range(self.writer.blocks))
        assert missing <= every - self.there
        assert every - missing <= self.there | self.perhaps
        self.there, self.perhaps = every - missing, set()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def close(self):
        self.writer.close()
        self.writer = None
        follow = next(n for n in range(100) if n not in self.there)
        self.least = max(self.least, min(follow * BLOCK, self.rows))

    @precondition(lambda self: self.writer is not None)
    @rule()
    def kill(self):
        self.lose()

    @precondition(lambda self: self.writer is not None)
    @rule(event=st.integers(1, 40), step=st.sampled_from(["close", "finish"]))
    def kill_at_the_end(self, event, step):
        if step == "finish" and self.writer.missing():
            return
        self.lose()

        def end():
            writer = SharedWriter.resume(self.path, rows=self.rows)
            getattr(writer, step)()

        killed_at(event, self.path, end)
        self.complete = Reader(self.path).complete
        assert not self.complete or step == "finish"

    @precondition(lambda self: self.writer is None)
    @rule(more=st.sampled_from([0, 0, 1, 13]))
    def go_on(self, more):
        """Goes on with a store, also if it was complete."""
        self.rows += more
        self.writer = SharedWriter.resume(
            self.path, rows=self.rows, reopening=reopening_of(self.path)
        )
        self.complete = False
        if more:
            # The last block may not have been full.
            self.there = set(range(self.writer.blocks)) - set(self.writer.missing())
            self.perhaps = set()

    @precondition(lambda self: self.writer is None and not self.complete)
    @rule(rows=st.integers(0, 25))
    def go_on_alone(self, rows):
        with Writer.resume(self.path, memory=MEMORY) as one:
            assert one.rows >= self.least
            one.append(rows_between(one.rows, min(one.rows + rows, self.rows)))
            one.commit()
            self.least = one.rows
        whole = -(-self.rows // BLOCK) if one.rows == self.rows else one.rows // BLOCK
        self.there, self.perhaps = set(range(whole)), set()

    @precondition(lambda self: self.complete)
    @rule()
    def refuse_more_rows(self):
        for resume in (Writer.resume, partial(SharedWriter.resume, rows=self.rows)):
            with pytest.raises(StoreError, match="is complete: no rows can be added"):
                resume(self.path)

    @invariant()
    def what_anybody_sees_is_right(self):
        if not hasattr(self, "path"):
            return
        reader = Reader(self.path)
        assert self.least <= reader.rows <= self.rows
        assert not reader.complete or reader.rows == self.rows
        self.least = reader.rows
        for name, expected in rows_between(0, reader.rows).items():
            assert (reader.array(name)[:] == expected).all()

    def teardown(self):
        if hasattr(self, "path"):
            self.end()
            self.folder.cleanup()

    def end(self):
        """Whatever happened, the store equals one that one writer wrote at once."""
        if self.writer is not None:
            self.lose()
        if not self.complete:
            with SharedWriter.resume(self.path, rows=self.rows) as self.writer:
                for block in reversed(self.writer.missing()):
                    self.write(block)
                self.writer.finish()
        assert_holds(Folder(self.path), self.rows)
        assert complaints(self.path) == {}
        other = Path(self.folder.name) / "once"
        with Writer.create(
            other, ARRAYS, {"x": 1}, memory=MEMORY, compression=self.compression
        ) as once:
            once.append(rows_between(0, self.rows))
            once.finish()
        assert contents_of(Folder(self.path)) == contents_of(Folder(other))


TestScatteredMachine = pytest.mark.campaign(ScatteredMachine.TestCase)
TestScatteredMachine.settings = settings(
    max_examples=times(4, 15),
    stateful_step_count=25,
    # Kills come at another moment each time, which can't be made simpler.
    phases=(Phase.reuse, Phase.generate),
)
