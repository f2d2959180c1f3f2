"""What an export does with files, memory, errors and progress, in every format."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import layertap
from layertap.errors import (
    AddressError,
    BackendMissingError,
    OptionError,
    StoreCorruptError,
    StoreError,
)
from layertap.exports import content, parquet
from tests.support.export_stores import IDS, ROWS, bits, plan_of, store
from tests.support.faults import python, running, small_disk

SUFFIXES = (".parquet", ".h5", ".npz", ".safetensors", ".tsv")
every_format = pytest.mark.parametrize("suffix", SUFFIXES)


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def bytes_of(saved):
    arrays = saved.values()
    return sum(int(np.prod(array.shape)) * array.dtype.itemsize for array in arrays)


@pytest.fixture
def saved(tmp_path):
    return store(tmp_path / "v.zarr", ids=IDS)[0]


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def all_of(suffix):
    return sorted(["x.tsv", "x.metadata.tsv"] if suffix == ".tsv" else [f"x{suffix}"])


@every_format
def test_a_store_is_exported_by_its_path_and_the_same_way_again(saved, out, suffix):
    path = layertap.export(saved.path, str(out / f"x{suffix}"))
    assert path == out / f"x{suffix}"
    assert names_in(out) == all_of(suffix)
    first = path.read_bytes()
    layertap.export(saved, path, overwrite=True)
    assert names_in(out) == all_of(suffix)
    if suffix != ".h5":  # which has the time of its data sets
        assert path.read_bytes() == first


@every_format
def test_an_existing_file_stays_without_overwrite(saved, out, suffix):
    for name in all_of(suffix):
        (out / name).write_text("mine")
        with pytest.raises(OptionError, match=rf"{name} exists\. Pass overwrite=True"):
            layertap.export(saved, out / f"x{suffix}")
        assert (out / name).read_text() == "mine"
        assert names_in(out) == [name]
        (out / name).unlink()


def test_metadata_of_another_export_does_not_stay(saved, tmp_path, out):
    layertap.export(saved, out / "x.tsv")
    bare, _ = store(tmp_path / "bare", plan_of(["float32"]))
    layertap.export(bare, out / "x.tsv", overwrite=True, addresses="of_float32/out")
    assert names_in(out) == ["x.tsv"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.csv", r"unknown.* \.parquet, \.h5, \.npz, \.safetensors, \.tsv.* \.csv"),
        ("x", "Received none"),
        ("x.PARQUET", "Received .PARQUET"),
        ("s3://bucket/x.npz", "is a URL"),
        (Path("gs://bucket/x.npz"), "is a URL"),
        ("folder.npz", r"folder\.npz is a folder"),
    ],
)
def test_paths_that_are_refused(saved, out, monkeypatch, name, message):
    monkeypatch.chdir(out)
    (out / "folder.npz").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OptionError, match=message):
            layertap.export(saved, name, overwrite=overwrite)
    assert names_in(out) == ["folder.npz"]


def test_other_errors_leave_nothing(saved, out):
    with pytest.raises(
        AddressError, match=r"'fusoin/in/0'.*Did you mean 'fusion/in/0'"
    ):
        layertap.export(saved, out / "x.npz", addresses="fusoin/in/0")
    with pytest.raises(StoreError, match="gone"):
        layertap.export(out / "gone.zarr", out / "x.npz")
    assert names_in(out) == []


def test_missing_folders_are_made(saved, out):
    layertap.export(saved, out / "a" / "b" / "x.npz")
    assert names_in(out / "a" / "b") == ["x.npz"]


@pytest.mark.parametrize(
    ("suffix", "package", "extra"),
    [(".parquet", "pyarrow", "parquet"), (".h5", "h5py", "hdf5")],
)
def test_a_missing_library_is_named_with_its_extra(
    saved, out, monkeypatch, suffix, package, extra
):
    (out / f"x{suffix}").write_text("mine")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        BackendMissingError,
        match=rf'A {suffix} export needs {package},.*pip install "layertap\[{extra}\]"',
    ):
        layertap.export(saved, out / f"x{suffix}", overwrite=True)
    assert names_in(out) == [f"x{suffix}"]
    assert (out / f"x{suffix}").read_text() == "mine"


@every_format
@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreCorruptError])
def test_an_error_on_the_way_leaves_the_old_file(
    saved, out, monkeypatch, suffix, error
):
    (out / f"x{suffix}").write_text("old")
    rows_of = type(saved["fusion/in/0"]).__getitem__

    def broken(array, index):
        if array.path == "fusion/in/1":
            raise error("broken")
        return rows_of(array, index)

    monkeypatch.setattr(type(saved["fusion/in/0"]), "__getitem__", broken)
    with pytest.raises(error, match="broken"):
        layertap.export(saved, out / f"x{suffix}", overwrite=True)
    assert names_in(out) == [f"x{suffix}"]
    assert (out / f"x{suffix}").read_text() == "old"
    assert not [t for t in threading.enumerate() if "layertap-ahead" in t.name]


@every_format
def test_a_full_disk_leaves_nothing(tmp_path, suffix):
    plan = plan_of([])
    values = {v.address: bits((9000, *v.shape[1:]), v.dtype) for v in plan.stored}
    saved, _ = store(tmp_path / "v", plan, rows=9000, values=values, block_rows=4096)
    with small_disk(tmp_path / "disk") as disk:
        path = disk.path / f"x{suffix}"
        with pytest.raises(StoreError, match=r"No space left.* Free some space"):
            layertap.export(saved, path)
        assert names_in(disk.path) == []
        layertap.export(saved, path, addresses="number/out")
        assert path in disk.path.iterdir()


KILLED = """
import sys
import layertap
from layertap.exports import content
from layertap.store.reading.array import LazyArray

read = LazyArray.__getitem__

def slow(array, index):
    if array.path == "number/out":
        print("half", flush=True)
        sys.stdin.readline()
    return read(array, index)

LazyArray.__getitem__ = slow
layertap.export(sys.argv[1], sys.argv[2], overwrite=True)
"""


@every_format
def test_a_killed_export_leaves_no_file_and_the_next_one_cleans_up(saved, out, suffix):
    path = out / f"x{suffix}"
    with running(python(KILLED, saved.path, path)) as process:
        assert process.stdout.readline() == "half\n"
        (folder,) = out.iterdir()
        assert folder.name.startswith(f".x{suffix}.")
        # Another export of the same file does not take it away.
        layertap.export(saved, path)
        assert folder.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert folder.exists()
    assert names_in(out) == sorted([folder.name, *all_of(suffix)])
    layertap.export(saved, path, overwrite=True)
    assert names_in(out) == all_of(suffix)


def test_a_stopped_export_cleans_up_itself(saved, out):
    with running(python(KILLED, saved.path, out / "x.npz")) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGTERM)
        # The thread that reads goes to its end.
        process.stdin.write("\n" * 1000)
        process.stdin.close()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert names_in(out) == []


@every_format
def test_few_bytes_are_in_memory_at_a_time(tmp_path, monkeypatch, suffix):
    plan = plan_of(["float32", "bfloat16"])
    rows = 5000
    values = {v.address: bits((rows, *v.shape[1:]), v.dtype) for v in plan.stored}
    saved, _ = store(tmp_path / "v", plan, rows=rows, values=values, block_rows=64)
    limit = 20_000
    monkeypatch.setattr(content.Content.pieces, "__defaults__", (limit,))
    monkeypatch.setattr(parquet, "_GROUP_BYTES", limit)
    monkeypatch.setattr("layertap.exports.projector._PIECE_BYTES", limit)
    pieces, ahead = [], []
    original = content.map_ahead

    def counting(function, items, **options):
        def read(item):
            arrays = function(item)
            pieces.append(sum(a.nbytes for a in arrays))
            ahead.append(len(pieces) - taken[0])
            return arrays

        taken = [len(pieces)]
        for result in original(read, items, **options):
            taken[0] += 1
            yield result

    monkeypatch.setattr(content, "map_ahead", counting)
    layertap.export(saved, tmp_path / f"x{suffix}")
    total = bytes_of(saved)
    assert sum(pieces) >= total > 20 * limit
    assert limit / 4 < max(pieces) <= limit
    # One in use, and two that are read, or being read, ahead.
    assert max(ahead) <= 3


PEAK = """
import sys
import threading
import layertap

def own():
    # Without the pages of files, which the system can take back.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

layertap.export(sys.argv[1], sys.argv[2], addresses="number/out")
before, peak, done = own(), [0], threading.Event()

def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], own())

watching = threading.Thread(target=watch)
watching.start()
layertap.export(sys.argv[1], sys.argv[2], overwrite=True)
done.set()
watching.join()
print(peak[0] - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of 319 MB of values."""
    plan, rows = plan_of([]), 600_000
    values = {v.address: np.zeros((rows, *v.shape[1:]), v.dtype) for v in plan.stored}
    path = tmp_path_factory.mktemp("large") / "v"
    saved, _ = store(path, plan, rows=rows, values=values, block_rows=4096)
    assert bytes_of(saved) > 4.5 * 2**26
    return path


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_memory_does_not_grow_with_the_values(large, out, suffix):
    with running(python(PEAK, large, out / f"x{suffix}")) as process:
        peak = 1024 * int(process.stdout.readline())
    # Three row groups or pieces, and as much again of the library and the allocator.
    assert peak < (4 * 2**26 if suffix == ".parquet" else 8 * 2**24)


@every_format
def test_progress_goes_up_to_all_rows(saved, out, monkeypatch, suffix):
    monkeypatch.setattr(content.Content.pieces, "__defaults__", (500,))
    calls = []
    layertap.export(
        *(saved, out / f"x{suffix}"), progress=lambda *call: calls.append(call)
    )
    rows, written, totals = zip(*calls, strict=True)
    assert list(rows) == sorted(rows)
    assert (rows[0], rows[-1]) == (0, ROWS)
    assert list(written) == sorted(written)
    assert set(totals) == {ROWS}


def test_progress_lines_name_the_work(saved, out, capsys):
    layertap.export(saved, out / "x.npz", progress=True)
    lines = capsys.readouterr().err
    assert f"layertap: exporting {len(saved.plan.known)} values: 0 of 50 rows" in lines
    layertap.export(saved, out / "y.npz", progress=False)
    assert capsys.readouterr().err == ""


def test_a_file_is_durable_before_it_has_its_name(saved, out, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda d: (done.append("sync"), sync(d))[1])
    monkeypatch.setattr(
        Path, "replace", lambda a, b: (done.append(b.name), replace(a, b))[1]
    )
    layertap.export(saved, out / "x.tsv")
    # The vectors come last; then the folder is durable, too.
    assert done == ["sync", "sync", "x.metadata.tsv", "x.tsv", "sync"]
