"""Compares two saves of one run, by one process or by many."""

import dataclasses

import numpy as np

import layertap
from tests.support.store_folder import Folder


def assert_same(place, local):
    """Asserts that a store of many workers equals that of one process.

    Args:
        place: The store, as the suites of stores see it, or its folder.
        local: The path of the store that `layertap.save` wrote.
    """
    place = place if hasattr(place, "names") else Folder(place)
    saved, local = layertap.open(place.path), layertap.open(local)
    assert saved.complete
    assert saved.reader.paths == local.reader.paths
    for path in local.reader.paths:
        here, there = saved.reader.array(path), local.reader.array(path)
        assert here.dtype == there.dtype
        # In an object store, the attributes also name the current writer.
        attributes = {k: v for k, v in here.attributes.items() if k != "writer"}
        assert attributes == there.attributes
        assert here[:].tobytes() == there[:].tobytes(), path
        assert [error for _, error in here.check() if error] == []
    assert saved.identity == local.identity
    assert saved.plan == local.plan
    assert_same_statistics(saved, local)
    assert_nothing_left(place, saved.reader)


def assert_same_statistics(saved, local):
    """Asserts that statistics are equal; to the bit if blocks are the same.

    Numbers of 32 bits are summed in 32 bits, in the pieces of a block.
    """
    here, there = saved.statistics, local.statistics
    assert here.keys() == there.keys()
    for address in there:
        for field in dataclasses.fields(there[address]):
            received, expected = (
                getattr(s[address], field.name) for s in (here, there)
            )
            if saved.reader.block_rows == local.reader.block_rows:
                np.testing.assert_array_equal(received, expected)
            elif field.name in ("axis", "histogram"):
                assert received == expected
            else:
                np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-7)


def assert_nothing_left(place, reader):
    """Asserts that a store has its shards and metadata, and no other file."""
    shards, others = [], []
    for name in place.names():
        last = name.rpartition("/")[2]
        (shards if last.startswith("c.") else others).append(name)
    blocks = -(-reader.rows // reader.block_rows)
    assert len(shards) == blocks * len(reader.paths)
    assert not any(name.endswith(".new") for name in shards)
    groups = {path.rpartition("/")[0] for path in reader.paths} | {""}
    groups |= {group.rpartition("/")[0] for group in groups}
    expected = {f"{name}/zarr.json".lstrip("/") for name in groups | {*reader.paths}}
    assert set(others) == expected
