"""What driver and workers ask of a bucket, and hold in memory: by running their code.

The bucket is in this process's memory. Nothing is computed, but all is written and read
as in a save: markers, shards, records. What is counted of a few blocks is what each
block costs.
"""

import math
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.scale_plan import Size, noted, plan, record, specs
from layertap.results.statistics.gather import Gatherer
from layertap.store.reading.reader import Reader
from layertap.store.storage import buckets
from layertap.store.writing.block_records import record_file
from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter

# So many names are in one answer, of S3 and of Google's storage.
PAGE = 1000
_PATH = "s3://bucket/values.zarr"


class Counted:
    """TensorStore's key-value store in memory, which counts what it is asked.

    Attributes:
        asked: How often, by the kind of request. A LIST is one, however many answers
            it takes.
    """

    def __init__(self) -> None:
        self._values = buckets.tensorstore().KvStore.open("memory://").result()
        self.asked: Counter[str] = Counter()

    def read(self, key: str, **options: Any) -> Any:
        """Reads an object."""
        self.asked["GET"] += 1
        return self._values.read(key, **options)

    def write(self, key: str, content: bytes | None, **options: Any) -> Any:
        """Puts an object, or deletes it."""
        self.asked["DELETE" if content is None else "PUT"] += 1
        return self._values.write(key, content, **options)

    def list(self, keys: Any) -> Any:
        """Lists objects."""
        self.asked["LIST"] += 1
        return self._values.list(keys)


@contextmanager
def counted() -> Iterator[Counted]:
    """Puts all buckets into memory while the context is open."""
    before, found = buckets.open_bucket, Counted()
    buckets.open_bucket = lambda *_: found
    try:
        yield found
    finally:
        buckets.open_bucket = before


@dataclass(frozen=True)
class Requests:
    """What is asked of the bucket, by the kind of request.

    Args:
        begin: By the driver, to make the store, until it knows what is missing.
        worker: By a worker, before its first block.
        block: By a worker, for each block.
        finish: By the driver at the end, without what is asked for each record.
        record: By the driver at the end, for each record.
        resume: By the driver of a later call, until it knows what is missing.
    """

    begin: Counter[str]
    worker: Counter[str]
    block: Counter[str]
    finish: Counter[str]
    record: Counter[str]
    resume: Counter[str]

    @classmethod
    def counted(cls) -> Self:
        """Counts them, in saves of very few rows."""
        first, second = _asked(2), _asked(3)
        each = second[3] - first[3]
        twice = Counter({kind: 2 * number for kind, number in each.items()})
        return cls(*first[:3], first[3] - twice, each, _asked_again())


def _asked(blocks: int) -> list[Counter[str]]:
    """Returns the requests of the begin, of a worker, of a block and of the end."""
    found: list[Counter[str]] = []
    with counted() as bucket:

        def note() -> None:
            found.append(Counter(bucket.asked))
            bucket.asked.clear()

        with _writer(blocks, 4) as writer:
            missing = writer.missing()
            note()
            worker = BlockWorker(writer.claim)
            # As a worker reads the plan.
            Reader(_PATH)
            note()
            for number in missing:
                bucket.asked.clear()
                worker.written(number)
                block = worker.begin(number)
                block.append({n: part[:] for n, part in block.values.items()})
                worker.write(block)
            note()
            writer.finish(lambda: {"statistics": len(list(writer.notes()))})
            note()
    return found


def _asked_again() -> Counter[str]:
    """Returns the requests that resume a stopped save."""
    with counted() as bucket:
        with _writer(2, 4):
            pass
        bucket.asked.clear()
        with SharedWriter.resume(_PATH, rows=8) as writer:
            writer.missing()
            return Counter(bucket.asked)


def _writer(blocks: int, block_rows: int) -> SharedWriter:
    return SharedWriter.create(
        _PATH, specs(), {}, rows=blocks * block_rows, most_rows=block_rows
    )


@dataclass(frozen=True)
class Driver:
    """What the driver needs at the end of a save.

    Args:
        held: Bytes in memory, at most, for each block.
        ahead: Bytes in memory, at most, besides: records that are read ahead.
        seconds: Of a processor, for each record: to read it and add it up.
    """

    held: float
    ahead: float
    seconds: float

    @classmethod
    def measured(cls, memory: int, blocks: int) -> Self:
        """Measures them.

        Args:
            memory: As of `Size`: it says how large a block is, and so a record.
            blocks: How many blocks to measure with; twice as many, too.
        """
        few, many = _peak(memory, blocks, None), _peak(memory, 2 * blocks, None)
        notes = noted(Size(memory).block_rows)
        ahead = _peak(memory, 64, notes) - _peak(memory, 64, None)
        return cls((many - few) / blocks, ahead, _seconds(memory, notes))


def _peak(memory: int, blocks: int, notes: Any) -> int:
    """Returns the peak bytes of a driver when a save of `blocks` ends."""
    with counted(), _recorded(memory, blocks, notes) as writer:
        tracemalloc.start()
        _finish(writer)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def _seconds(memory: int, notes: Any, blocks: int = 64) -> float:
    with counted(), _recorded(memory, blocks, notes) as writer:
        begin = time.process_time()
        _finish(writer)
        return (time.process_time() - begin) / blocks


def _finish(writer: SharedWriter) -> None:
    """Ends a save as `layertap.distributed.save` does."""
    missing = writer.missing()
    gatherer = Gatherer(plan())
    for _, found in writer.notes():
        if found is not None:
            gatherer.add_summary(writer.block_rows, found)
    writer.finish(lambda: {"statistics": gatherer.to_json()})
    assert not missing


@contextmanager
def _recorded(memory: int, blocks: int, notes: Any) -> Iterator[SharedWriter]:
    """Yields a writer of a store without shards, whose blocks are all recorded."""
    size = Size(memory)
    layouts = size.layouts
    with SharedWriter.create(
        _PATH, specs(), {}, rows=blocks * size.block_rows, memory=memory
    ) as writer:
        bucket = buckets.open_bucket("s3", "bucket")
        for number in range(blocks):
            one = record(layouts, number, notes)
            one = type(one)(writer.store, number, one.rows, one.digests, notes)
            key = f"values.zarr/{record_file(number, one.rows)}"
            bucket.write(key, one.contents()).result()
        yield writer


def pages(names: int) -> int:
    """Returns the number of answers in a listing of names."""
    return max(math.ceil(names / PAGE), 1)
