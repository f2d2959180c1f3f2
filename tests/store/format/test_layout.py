"""The layout of a store: sizes of blocks and chunks, and the content of `zarr.json`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.errors import OptionError, StoreCorruptError
from layertap.store.format import digests
from layertap.store.format.layout import ArraySpec
from layertap.store.format.metadata import parse_layout
from layertap.store.format.sizing import lay_out, rows_per_block, rows_per_chunk
from layertap.store.format.zarr_json import to_json

KIB, MIB = 2**10, 2**20


def test_metadata_follows_the_format():
    arrays = [ArraySpec("fusion/in/0", (6, 4), "float32", {"made_by": "left"})]
    (layout,) = lay_out(arrays, "me", compression="zstd", memory=3 * 96 * 10)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    ours = {"made_by": "left", "blocks": ""}
    sealed = ["me", "fusion/in/0", layout.structure(), ours]
    assert json.loads(to_json(layout.metadata())) == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [0, 6, 4],
        "data_type": "float32",
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [10, 6, 4]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [10, 6, 4],
                    "codecs": [
                        little,
                        {
                            "name": "zstd",
                            "configuration": {"level": 1, "checksum": False},
                        },
                        {"name": "crc32c"},
                    ],
                    "index_codecs": [little, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "dimension_names": ["row", "0_1", "0_2"],
        "attributes": {
            "layertap": {
                "made_by": "left",
                "blocks": "",
                "seal": digests.digest_json(sealed),
            }
        },
    }


def test_a_digest_covers_all_metadata():
    (layout,) = lay_out(
        [ArraySpec("a", (3,), "int8")], "me", compression=None, memory=9
    )
    spec = layout.spec
    others = [
        replace(layout, store="you"),
        replace(layout, rows=1),
        replace(layout, block_rows=2),
        replace(layout, compression="zstd"),
        replace(layout, digests="0" * 16),
        replace(layout, spec=replace(spec, path="b")),
        replace(layout, spec=replace(spec, dtype="uint8")),
        replace(layout, spec=replace(spec, attributes={"x": 1})),
    ]
    seals = {
        any_layout.metadata()["attributes"]["layertap"]["seal"]
        for any_layout in [layout, *others]
    }
    assert len(seals) == 9


arrays_of_any_size = st.lists(
    st.integers(1, 200 * MIB) | st.integers(1, 10_000), min_size=1, max_size=5
).map(lambda sizes: [ArraySpec(str(n), (s,), "uint8") for n, s in enumerate(sizes)])


@given(arrays_of_any_size, st.integers(1, 2**30))
def test_blocks_fit_the_memory_and_chunks_fit_the_blocks(arrays, memory):
    rows = rows_per_block(arrays, memory)
    row = sum(array.shape[0] for array in arrays)
    widest = max(array.shape[0] for array in arrays)

    def fits(rows):
        return 3 * rows * row <= memory and rows * widest <= 32 * MIB

    assert rows == 1 or fits(rows)
    assert not fits(-(-4 * rows // 3))  # at most a quarter is lost
    for array in arrays:
        chunk = rows_per_chunk(array, rows)
        assert rows % chunk == 0
        assert chunk == 1 or chunk * array.shape[0] <= 256 * KIB
        assert chunk in (1, rows) or chunk * array.shape[0] >= 16 * KIB


@given(arrays_of_any_size, st.integers(1, 10**6))
def test_few_rows_take_little_space(arrays, rows):
    size = 0
    for layout in lay_out(arrays, "me", rows=rows):
        digests = "0" * 16 * -(-rows // layout.block_rows)
        stored = layout.committed(0, rows, digests)
        size += len(to_json(stored.metadata()))
        full, rest = divmod(rows, layout.block_rows)
        size += full * stored.shard_sizes(layout.block_rows)[0]
        size += stored.shard_sizes(rest)[0] if rest else 0
    values = rows * sum(array.row_bytes for array in arrays)
    assert size <= 1.2 * values + 4 * KIB * len(arrays)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [
        (1000, 4, 1000),  # a small block is one chunk
        (2**17, 256, 1024),
        (100, 100 * KIB, 2),
        (100, 257 * KIB, 1),  # a chunk has at least one row
    ],
)
def test_chunks(rows, row_bytes, expected):
    assert rows_per_chunk(ArraySpec("a", (row_bytes,), "uint8"), rows) == expected


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "zarr.json", "a/zarr.json"]
)
def test_invalid_paths_are_refused(path):
    with pytest.raises(OptionError, match="path of an array"):
        ArraySpec(path, (), "int8")


@pytest.mark.parametrize("dtype", ["object", "str", "<U3", "float8_e4m3fn", "double"])
def test_dtypes_that_can_not_be_stored_are_refused(dtype):
    with pytest.raises(OptionError, match=r"a has a dtype .* Expected one of bool"):
        ArraySpec("a", (), dtype)


def test_rows_without_values_are_refused():
    with pytest.raises(OptionError, match=r"\(3, 0\), which holds no values"):
        ArraySpec("a", (3, 0), "float32")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "Expected at least one array"),
        (["a", "b", "a"], "Two arrays have the path 'a'"),
        (["a/out", "a/out/1"], "'a/out' is an array, so 'a/out/1' can't be inside"),
    ],
)
def test_arrays_that_can_not_share_a_store_are_refused(paths, message):
    with pytest.raises(OptionError, match=message):
        lay_out(
            [ArraySpec(p, (), "int8") for p in paths], "me", compression=None, memory=1
        )


def test_invalid_options_are_refused():
    arrays = [ArraySpec("a", (), "int8")]
    with pytest.raises(OptionError, match="None or one of 'zstd'"):
        lay_out(arrays, "me", compression="gzip", memory=1)
    with pytest.raises(OptionError, match="Received 0"):
        lay_out(arrays, "me", compression=None, memory=0)


@pytest.mark.parametrize("value", [np.int64(3), float("nan"), {1, 2}])
def test_attributes_that_are_not_json_are_refused(value):
    with pytest.raises(OptionError, match="have to be JSON"):
        to_json({"attributes": {"a": value}})


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "complex64"])
def test_metadata_is_parsed_to_the_same_layout(dtype, compression):
    arrays = [ArraySpec("a/b", (3,), dtype, {"x": [1]}), ArraySpec("c", (), dtype)]
    for layout in lay_out(arrays, "me", compression=compression, memory=1000):
        metadata = json.loads(to_json(layout.metadata()))
        path = layout.spec.path
        assert parse_layout(path, Path("zarr.json"), metadata, "me") == layout
        metadata["attributes"]["unit"] = "mV"
        parsed = parse_layout(path, Path("zarr.json"), metadata, "me")
        assert parsed == replace(layout, foreign_attributes={"unit": "mV"})
        with pytest.raises(StoreCorruptError, match="or of another store"):
            parse_layout(path, Path("zarr.json"), metadata, "you")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, 3]},
        {"shape": [10, 4]},
        {"shape": "no"},
        {"data_type": "float31"},
        {"codecs": []},
        {"chunk_key_encoding": {"name": "default"}},
        {"node_type": "group"},
        {"attributes": None},
    ],
)
def test_damaged_metadata_is_refused(change):
    (layout,) = lay_out(
        [ArraySpec("a", (3,), "int8")], "me", compression=None, memory=99
    )
    with pytest.raises(
        StoreCorruptError, match=r"^here/zarr\.json does not hold the metadata"
    ):
        parse_layout("a", Path("here/zarr.json"), layout.metadata() | change, "me")
