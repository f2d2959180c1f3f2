"""Each format, read back by its own library and compared with the store to the bit."""

import errno
import json
import os
import zipfile

import h5py
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import layertap
from layertap.core import text
from layertap.errors import DataError, OptionError, StoreError
from layertap.exports import content, hdf5, parquet
from tests.support.export_stores import (
    COMPLEX,
    IDS,
    REAL,
    ROWS,
    assert_metadata,
    assert_same,
    bits,
    expected_of,
    plan_of,
    store,
    widened,
)

LABELS = {"class": np.arange(ROWS) % 3, "box": [bits((ROWS, 2, 2), "float64", 5)]}
WEIGHTS = bits((ROWS,), "float32", 6)
SUFFIXES = (".parquet", ".h5", ".npz", ".safetensors")


def read_parquet(path):
    table = pq.read_table(path)
    arrays = {}
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        shape = json.loads((field.metadata or {}).get(b"shape", b"null"))
        if hasattr(column.type, "list_size"):
            column = column.flatten()
        array = column.to_numpy(zero_copy_only=False)
        if array.dtype == object:
            array = array.astype(str)
        size = -1 if array.size else 0
        sizes = [(), (2, 2)][field.name.startswith("labels/box")]
        sizes = (2,) if field.name.startswith("lengths/") else sizes
        arrays[field.name] = array.reshape(size, *(sizes if shape is None else shape))
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    return arrays, metadata


def read_h5(path):
    arrays = {}

    def visit(name, found):
        if isinstance(found, h5py.Dataset):
            is_text = h5py.check_string_dtype(found.dtype)
            arrays[name] = found.asstr()[:].astype(str) if is_text else found[()]

    with h5py.File(path) as file:
        file.visititems(visit)
        return arrays, dict(file.attrs)


def read_npz(path):
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    return arrays, json.loads(str(arrays.pop("metadata")))


def read_safetensors(path):
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    if "ids" in metadata:
        arrays["ids"] = text.decode(arrays["ids"])
    return arrays, metadata


READERS = dict(
    zip(SUFFIXES, (read_parquet, read_h5, read_npz, read_safetensors), strict=True)
)


def assert_exported(saved, stored, path):
    """Exports a store, reads it back and compares all of it; returns the arrays."""
    assert layertap.export(saved, path) == path
    arrays, metadata = READERS[path.suffix](path)
    expected = expected_of(saved.plan, stored)
    if saved.ids is not None:
        expected["ids"] = np.array(saved.ids)
    assert sorted(arrays) == sorted(expected)
    for name, array in expected.items():
        if path.suffix != ".safetensors":
            array = widened(array)
        assert_same(arrays[name], array, name)
    assert_metadata(metadata, saved)
    return arrays, metadata


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("piece", [1, 2000, 2**26])
def test_everything_is_read_back_to_the_bit(tmp_path, monkeypatch, suffix, piece):
    monkeypatch.setattr(content.Content.pieces, "__defaults__", (piece,))
    monkeypatch.setattr(parquet, "_GROUP_BYTES", piece)
    along = {"ids": IDS, "labels": LABELS, "sample_weight": WEIGHTS}
    saved, stored = store(tmp_path / "v.zarr", class_names=["a", "b", "c"], **along)
    assert_exported(saved, stored, tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ids_may_be_numbers_and_labels_an_array_or_missing(tmp_path, suffix):
    ids, labels = np.arange(ROWS)[::-1] * 10**12, np.arange(ROWS) % 3
    for name, along in (
        ("numbers", {"ids": ids, "labels": labels}),
        ("none", {}),
    ):
        saved, stored = store(tmp_path / name, **along)
        arrays, _ = assert_exported(saved, stored, tmp_path / f"{name}{suffix}")
        assert [n in arrays for n in ("ids", "labels")] == [bool(along)] * 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_store_that_is_not_complete_gives_its_rows_even_none(tmp_path, suffix):
    for rows in (0, 7):
        saved, stored = store(tmp_path / f"{rows}", rows=rows, finish=False)
        _, metadata = assert_exported(saved, stored, tmp_path / f"x{rows}{suffix}")
        assert metadata["complete"] == "false"


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_complex_numbers_where_the_format_has_them(tmp_path, suffix):
    saved, stored = store(tmp_path / "v", plan_of(COMPLEX))
    assert_exported(saved, stored, tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
    ("suffix", "dtypes"),
    [(".parquet", COMPLEX), (".tsv", COMPLEX), (".safetensors", COMPLEX[1:])],
)
def test_complex_numbers_are_refused_by_name(tmp_path, suffix, dtypes):
    for dtype in dtypes:
        saved, _ = store(tmp_path / dtype, plan_of([dtype]))
        with pytest.raises(OptionError, match=rf"of_{dtype}/out .* Received {dtype}"):
            layertap.export(saved, tmp_path / f"x{suffix}")
        assert list(tmp_path.glob("*.*")) == []
        layertap.export(saved, tmp_path / f"x{suffix}", addresses="fusion/*")
        (tmp_path / f"x{suffix}").unlink()
        (tmp_path / "x.metadata.tsv").unlink(missing_ok=True)


def test_complex64_is_a_tensor(tmp_path):
    saved, stored = store(tmp_path / "v", plan_of(["complex64"]))
    assert_exported(saved, stored, tmp_path / "x.safetensors")


def test_every_number_of_bfloat16_keeps_its_bits(tmp_path):
    everything = np.arange(2**16, dtype="uint16")
    plan = plan_of(["bfloat16"])
    values = {v.address: bits((2**16, *v.shape[1:]), v.dtype) for v in plan.stored}
    numbers = values["of_bfloat16/out"]
    numbers.view("uint16")[:, 0] = everything
    saved, _ = store(tmp_path / "v", plan, rows=2**16, values=values, block_rows=2**14)
    name = "of_bfloat16/out"
    for suffix in SUFFIXES:
        path = tmp_path / f"x{suffix}"
        layertap.export(saved, path, addresses=name)
        found = READERS[suffix](path)[0][name]
        kept = suffix == ".safetensors"
        assert_same(found, numbers if kept else widened(numbers), suffix)
    tensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert str(tensors[name].dtype) == "torch.bfloat16"
    assert_same(tensors[name].view(torch.int16), numbers.view("int16"))


def test_addresses_select_values_in_the_order_of_the_plan(tmp_path):
    saved, _ = store(tmp_path / "v", ids=IDS)
    globs = ["of_int*/out", "fusion/in_gradient/0", "again/in/1"]
    layertap.export(saved, tmp_path / "x.parquet", addresses=globs)
    names = pq.read_schema(tmp_path / "x.parquet").names
    values = ["again/in/1", *(f"of_int{n}/out" for n in (8, 16, 32, 64))]
    assert names == [*values, "fusion/in_gradient/0", "ids", "lengths/again/in/1"]


def test_parquet_has_fixed_lists_and_small_row_groups(tmp_path, monkeypatch):
    saved, stored = store(tmp_path / "v")
    path = tmp_path / "x.parquet"
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 16_000)
    layertap.export(saved, path)
    schema = pq.read_schema(path)
    assert str(schema.field("fusion/in/0").type).startswith("fixed_size_list<")
    assert schema.field("fusion/in/0").type.list_size == 24
    assert str(schema.field("number/out").type) == "float"
    assert str(schema.field("of_float16/out").type.value_type) == "halffloat"
    facts = {k.decode(): v.decode() for k, v in schema.field(0).metadata.items()}
    facts = {k: facts[k] for k in ("made_by", "dtype", "shape")}
    assert facts == {"made_by": "look", "dtype": "float32", "shape": "[3, 2, 4]"}
    metadata = pq.ParquetFile(path).metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [16, 16, 16, 2]
    found = polars.read_parquet(path)["fusion/in/1"].to_numpy()
    assert_same(found, stored["fusion/in/1"].reshape(ROWS, -1))


def test_hdf5_has_groups_chunks_and_attributes(tmp_path, monkeypatch):
    saved, _ = store(tmp_path / "v")
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 1000)
    layertap.export(saved, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        data = file["fusion"]["in"]["0"]
        assert data.chunks == (10, 3, 2, 4)
        assert (data.attrs["made_by"], data.attrs["dtype"]) == ("look", "float32")
        assert file["of_bfloat16/out"].attrs["dtype"] == "bfloat16"
        assert "made_by" not in file["lengths/fusion/in/0"].attrs


def test_hdf5_refuses_a_text_that_it_would_cut(tmp_path):
    saved, stored = store(tmp_path / "v", ids=["a\0b", *IDS[1:]])
    with pytest.raises(DataError, match=r"'a\\x00b' has a NUL"):
        layertap.export(saved, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()
    assert_exported(saved, stored, tmp_path / "x.npz")


def test_every_failed_write_of_hdf5_is_an_error_and_the_first_one_ends_it(
    tmp_path, monkeypatch
):
    saved, _ = store(tmp_path / "v")
    monkeypatch.setattr(content.Content.pieces, "__defaults__", (400,))
    calls, reads = [], []
    write, pieces = os.pwrite, content.map_ahead

    def counted(*arguments, **options):
        for piece in pieces(*arguments, **options):
            reads.append(piece)
            yield piece

    monkeypatch.setattr(content, "map_ahead", counted)
    monkeypatch.setattr(os, "pwrite", lambda *call: (calls.append(0), write(*call))[1])
    layertap.export(saved, tmp_path / "x.h5")
    total, complete = len(calls), len(reads)
    assert total > 20 < complete
    for last in (0, total // 2, total - 2, total - 1):
        calls.clear()
        reads.clear()

        def failing(*call, last=last):
            calls.append(0)
            if len(calls) > last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*call)

        monkeypatch.setattr(os, "pwrite", failing)
        with pytest.raises(StoreError, match="No space left"):
            layertap.export(saved, tmp_path / "y.h5")
        assert not (tmp_path / "y.h5").exists()
        assert len(calls) == last + 1
        # HDF5 caches some chunks before it writes.
        assert len(reads) < complete / 2 or last > 0


def test_hdf5_has_long_metadata(tmp_path):
    names = [f"class number {i}" for i in range(10_000)]
    saved, stored = store(tmp_path / "v", class_names=names)
    assert_exported(saved, stored, tmp_path / "x.h5")


def test_members_of_an_archive_may_be_larger_than_4_gib(tmp_path):
    saved, _ = store(tmp_path / "v")
    layertap.export(saved, tmp_path / "x.npz")
    found = (tmp_path / "x.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        for member in archive.infolist():
            # Before its size is known, a member needs the version with large sizes.
            start = member.header_offset + 4
            assert int.from_bytes(found[start : start + 2], "little") == 45


def test_tensors_are_aligned_and_ids_are_utf8(tmp_path):
    saved, _ = store(tmp_path / "v", ids=IDS)
    layertap.export(saved, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert (8 + size) % 8 == 0
    assert header.pop("__metadata__")["ids"] == "UTF-8, padded with zero bytes"
    for name in saved:
        start = header[name]["data_offsets"][0]
        assert start % saved[name].dtype.itemsize == 0
    assert header["ids"]["dtype"] == "U8"


def test_all_dtypes_are_tested():
    assert {*content.NUMBERS, "bfloat16"} == set(REAL)
