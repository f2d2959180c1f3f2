"""What docs/scale.md says of a billion rows is what the code gives that saves them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale, scale_plan
from benchmarks.scale_driver import Counted, Driver, Requests, counted
from benchmarks.scale_plan import MEMORIES, MIB, Size, record, root_bytes
from layertap.results.statistics.encoding import decode_exact
from layertap.store.format.metadata import parse_layout
from layertap.store.format.zarr_json import to_json
from layertap.store.writing.block_worker import BlockWorker
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()
# As it is read, whatever its lines are.
TEXT = " ".join(PAGE.split())
TWO, HALF, LEAST = Size(2048 * MIB), Size(512 * MIB), Size(64 * MIB)
URL = "s3://bucket/values.zarr"
ROW_BYTES = 4 * 10 * (64 + 128 + 256 + 512 + 1024) + 3 * 8


def cells(table, name):
    """The cells of a row of a table of the page, without its name."""
    (line,) = re.findall(rf"\| {re.escape(name)} \|(.*)\|", scale.tables()[table])
    return [cell.strip() for cell in line.split("|")]


def test_the_page_has_the_tables():
    for title, table in scale.tables().items():
        assert f"### {title}\n" in PAGE
        assert table in PAGE, "`python -m benchmarks.scale` prints them"


def test_the_page_has_no_other_numbers_of_sizes_than_these():
    share = [f"{s.record_bytes / scale.block_bytes(s):.1%}" for s in (TWO, LEAST)]
    end, puts = map(scale.finishing, (HALF, TWO)), [*map(scale.of_puts, (HALF, TWO))]
    write = [scale.span(scale.writing(TWO, n)) for n in (1, 8)]
    lost = scale.span(scale.computing(TWO) + scale.writing(TWO, 8))
    for said in (
        f"statistics of its {(ROW_BYTES - 24) // 4:,} units: {share[0]} of the block "
        f"in blocks of 8,192 rows, {share[1]} in those of 256",
        f"with 512 MiB, {scale.amount(HALF.rewritten_bytes)} of markers for "
        f"{scale.amount(HALF.shard_bytes)} of values",
        f"reads all markers, {scale.amount(TWO.marker_bytes)} in the end, and the "
        f"root, which has {scale.amount(root_bytes(8192))} of plan and statistics",
        f"here it has {max(layout.chunks for layout in TWO.layouts)}.",
        "123 with 2,048 MiB",
        "a GPU computes 1,000 rows a second; 100 workers have a GPU each, 8 in a node; "
        "a node's network, and the driver's, takes 10 Gbit/s; a request is answered "
        "after 50 ms",
        f"{scale.RECORD_SECONDS * 1000:.0f} ms of a processor for a record, and holds "
        f"{scale.amount(scale.HELD)} for each block",
        f"Ray takes {scale.RAY_SECONDS * 1000:.0f} ms to hand out a block that costs "
        f"nothing, {scale.RAY_GIVEN * 1000:.1f} ms of them before the first one begins,"
        f" and {scale.amount(scale.RAY_HELD)} of the driver's memory",
        "S3 takes 3,500 puts and 5,500 gets a second",
        f"512 MiB, {puts[0]:,.0f} workers put as many objects as one prefix takes, and "
        f"the driver ends the save in {scale.span(next(end))}. With 2,048 MiB it is "
        f"{puts[1]:,.0f} workers and {scale.span(next(end))}, for "
        f"{scale.amount(scale.block_bytes(TWO))} of a block in each worker. A worker "
        f"that dies loses {lost} at most",
        f"Its shards have {scale.amount(scale.block_bytes(TWO) / 53)} in the mean",
        f"computes for 8.19 s and writes for {write[0]} to {write[1]}. Next is the "
        f"network of a node, with {scale.of_node():.0f} GPUs in it; then puts, with "
        f"{puts[1]:,.0f} workers; then the driver's end, with {scale.of_end(TWO):,.0f}",
    ):
        assert said in TEXT


def test_blocks_are_as_large_as_memory_and_shards_let_them():
    assert cells("The saved arrays", "together")[3:] == [f"{ROW_BYTES:,}", "79.4 TB"]
    # The widest has 4,096 bytes a row, and a shard has 32 MiB at most.
    for memory, rows in zip(MEMORIES, (256, 2048, 8192, 8192), strict=True):
        size = Size(memory)
        assert size.block_rows == rows
        assert rows * ROW_BYTES <= memory / 3
        assert 2 * rows * ROW_BYTES > memory / 3 or rows * 4096 == 2**25
        assert size.blocks == -(-(10**9) // rows)
        assert size.objects == size.blocks * 53


def test_a_block_has_as_many_bytes_as_its_files(tmp_path):
    blocks = {0: LEAST.block_rows}
    with SharedWriter.create(
        tmp_path / "v", scale_plan.specs(), {}, rows=10**9, memory=64 * MIB
    ) as writer:
        worker = BlockWorker(writer.claim)
        blocks[LEAST.blocks - 1] = 10**9 - (LEAST.blocks - 1) * LEAST.block_rows
        for number, given in blocks.items():
            block = worker.begin(number)
            block.append({n: part[:given] for n, part in block.values.items()})
            worker.write(block)
    for number, of in blocks.items():
        files = [
            tmp_path / "v" / layout.spec.path / layout.shard_name(number)
            for layout in LEAST.layouts
        ]
        assert [file.stat().st_size for file in files] == LEAST.shards(of)


def test_all_shards_are_all_blocks_and_a_last_one_that_is_not_full():
    # Rows; four bytes for each chunk of a block; sixteen in the index and four after.
    for size in (TWO, HALF, LEAST):
        chunks = [layout.chunks for layout in size.layouts]
        last = 10**9 - (size.blocks - 1) * size.block_rows
        full = [-(-last // layout.chunk_rows) for layout in size.layouts]
        padded = [
            count * layout.chunk_rows * layout.spec.row_bytes
            for count, layout in zip(full, size.layouts, strict=True)
        ]
        rows = (size.blocks - 1) * size.block_rows * ROW_BYTES + sum(padded)
        sums = 4 * ((size.blocks - 1) * sum(chunks) + sum(full))
        index = size.blocks * (16 * sum(chunks) + 4 * 53)
        assert size.shard_bytes == rows + sums + index


def test_a_marker_of_so_many_blocks_can_be_read():
    layout = scale_plan._whole(TWO.layouts[4])
    whole = to_json(replace(layout, digests="0" * 16 * TWO.blocks).metadata())
    others = [TWO._marker[4] + 16 * TWO.blocks, TWO.largest_marker]
    assert len(whole) == others[0] <= others[1] < 2**28
    assert TWO.marker_bytes == sum(TWO._marker) + 53 * 16 * TWO.blocks
    again = replace(layout, digests="0" * 16 * TWO.blocks)
    found = parse_layout(layout.spec.path, ROOT, again.metadata(), scale_plan.STORE)
    assert (found.rows, found.blocks) == (10**9, TWO.blocks)


@pytest.fixture
def put(monkeypatch):
    """The bytes of the markers that are put; a billion rows are 43."""
    monkeypatch.setattr(scale_plan, "ROWS", 43)
    found, write = [], Counted.write

    def noted(self, key, content, **options):
        if content and key.endswith("zarr.json") and "~" not in key:
            found.append(len(content))
        return write(self, key, content, **options)

    monkeypatch.setattr(Counted, "write", noted)
    assert (Size(MIB).block_rows, Size(MIB).blocks) == (4, 11)
    return found


def test_one_writer_puts_all_markers_for_each_block(put):
    with counted(), Writer.create(URL, scale_plan.specs(), {}, memory=MIB) as writer:
        put.clear()
        specs = scale_plan.specs()
        writer.append({s.path: np.zeros((43, *s.shape), s.dtype) for s in specs})
        writer.finish()
    # And then the root.
    assert len(put) == 11 * 53 + 1
    assert sum(put[:-1]) == Size(MIB).rewritten_bytes


def test_many_put_all_markers_once(put):
    options = {"rows": 43, "memory": MIB}
    with (
        counted(),
        SharedWriter.create(URL, scale_plan.specs(), {}, **options) as writer,
    ):
        worker = BlockWorker(writer.claim)
        put.clear()
        for number in writer.missing():
            block = worker.begin(number)
            rows = len(worker.rows_of(number))
            block.append({n: part[:rows] for n, part in block.values.items()})
            worker.write(block)
        assert put == []
        writer.finish()
    assert len(put) == 53 + 1
    assert sum(put[:-1]) == Size(MIB).marker_bytes


def test_a_record_has_what_is_noted_of_its_rows():
    noted = scale_plan.noted(256)
    assert len(noted) == 50
    for name, width in (("fusion/in/0", 64), ("fusion/in/49", 1024)):
        found = decode_exact(noted[name])
        array = scale_plan.activations(width, 256).astype(np.float64)
        assert (found.count, found.units) == (256, width)
        assert np.allclose(found.mean, array.mean(0), rtol=1e-5)
        assert np.array_equal(found.maximum, array.max(0))
        assert np.array_equal(found.zeros, (array == 0).sum(0))
    content = record(LEAST.layouts, 1, noted).contents()
    assert len(content) == pytest.approx(LEAST.record_bytes, abs=8)


def test_each_block_is_an_object_of_each_array_and_a_record():
    asked = Requests.counted()
    # Is it there already? Is the store still this save's, before and after?
    assert asked.block == {"PUT": 53 + 1, "GET": 1 + 2}
    # Root and markers, by who writes and by who knows the plan.
    assert asked.worker == {"GET": 2 * (1 + 53)}
    assert asked.record == {"GET": 1, "DELETE": 1}
    # All markers and the root, once; names of each array, and of the records.
    assert asked.finish["PUT"] == 53 + 1
    assert asked.finish["LIST"] == 53 + 4
    assert asked.finish["GET"] == 0
    # What was asked of other numbers of blocks is the same.
    assert asked.resume["LIST"] == 1


@pytest.mark.campaign(alone=True)
def test_the_driver_holds_what_the_page_says():
    found = Driver.measured(64 * MIB, 400)
    assert found.held == pytest.approx(scale.HELD, rel=0.3)
    # Sixteen records are read ahead, as text and as what is in it.
    assert found.ahead < 16 * 3 * LEAST.record_bytes


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0.00 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (999_600, "1.00 MB")],
)
def test_amounts(count, told):
    assert scale.amount(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.256, "0.26 s"),
        (12.35, "12 s"),
        (98, "98 s"),
        (1477, "25 min"),
        (10_000, "2.8 h"),
    ],
)
def test_spans(seconds, told):
    assert scale.span(seconds) == told
