"""What any storage must do with a store whose parts are missing, cut or not its own."""

import numpy as np
import pytest

from layertap.errors import StoreCorruptError
from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.store_rows import (
    ARRAYS,
    ROW_BYTES,
    assert_holds,
    complaints,
    contents_of,
    rows_between,
)

BLOCK = 4
TWINS = [ArraySpec("join/in/0", (3,), "int32"), ArraySpec("join/in/1", (3,), "int32")]


def twin_rows(start, stop, sign=1):
    """Rows of two arrays of the same form, no two the same."""
    rows = np.arange(start, stop, dtype="int32")[:, None] * 10 + np.arange(3) + 1
    rows = (sign * rows).astype("int32")
    return {"join/in/0": rows, "join/in/1": rows + 1000}


def make_twins(place, *, sign=1, finish=True):
    """Makes a store of eleven rows in three blocks; returns what was stored at seven.

    Args:
        place: Where to.
        sign: Of all values.
        finish: Whether it is to be complete.
    """
    memory = 3 * BLOCK * 2 * 12
    with Writer.create(place.path, TWINS, {}, memory=memory) as writer:
        writer.append(twin_rows(0, 7, sign))
        writer.commit()
        earlier = {name: place.read(name) for name in place.names()}
        writer.append(twin_rows(7, 11, sign))
        writer.commit()
        if finish:
            writer.finish()
    assert not complaints(place.path)
    return earlier


def located(name, rows):
    """How a message names a shard: file, rows, address."""
    array = name.rpartition("/")[0]
    return f"{name} with rows {rows[0]} to {rows[-1]} of {array} "


def assert_explained(path, name, rows):
    """Asserts that reading some rows, and `check`, say what is wrong with a shard."""
    array = name.rpartition("/")[0]
    with pytest.raises(StoreCorruptError) as caught:
        Reader(path).array(array)[rows[0] : rows[-1] + 1]
    assert located(name, rows) in str(caught.value)
    assert_found(path, {name: rows})


def assert_found(path, shards):
    """Asserts that `check` says that these shards are wrong, and no other."""
    found = complaints(path)
    assert len(found) == len(shards)
    for name, rows in shards.items():
        message = found[name.rpartition("/")[0], rows[0]]
        assert located(name, rows) in message
        assert "Restore it from a copy, or delete the store and save again." in message


def swap(place, one, other):
    """Exchanges two files."""
    first, second = place.read(one), place.read(other)
    assert first != second
    place.write(one, second)
    place.write(other, first)


def crc32c(content):
    """The CRC-32C of some bytes, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def make_chunks(place, compression):
    """Makes a store of one block of four chunks of two rows each, some of them zeros.

    Returns:
        The rows, and the shard as it was when it had four of them.
    """
    rows = np.arange(8, dtype="float32")[:, None] + np.zeros(2**14, "float32")
    rows[4:6] = 0
    arrays = [ArraySpec("a", (2**14,), "float32")]
    memory = 3 * 8 * 2**16
    with Writer.create(
        place.path, arrays, {}, memory=memory, compression=compression
    ) as writer:
        writer.append({"a": rows[:4]})
        writer.commit()
        earlier = place.read("a/c.0.0")
        writer.append({"a": rows[4:]})
        writer.finish()
    array = Reader(place.path).array("a")
    assert (array.block_rows, array.chunk_rows) == (8, 2)
    return rows, earlier


class DamageSuite:
    """The reports of damage, on any storage.

    Attributes:
        every: Of the lengths that something can be cut to, every so many are tried.
    """

    every = 1

    @pytest.fixture
    def place(self, new_place):
        return new_place()

    @pytest.mark.parametrize("compression", [None, "zstd"])
    def test_a_shard_that_is_cut_anywhere(self, place, compression):
        memory = 3 * BLOCK * ROW_BYTES
        with Writer.create(
            place.path, ARRAYS, {}, memory=memory, compression=compression
        ) as writer:
            writer.append(rows_between(0, 7))
            writer.finish()
        for name, rows in {
            "join/in/1/c.0.0.0": range(4),
            "labels/c.1": range(4, 7),
        }.items():
            good = place.read(name)
            for length in range(0, len(good), self.every):
                place.write(name, good[:length])
                assert_explained(place.path, name, rows)
            place.write(name, good)
        assert_holds(place, 7)

    def test_a_shard_that_is_missing(self, place):
        make_twins(place)
        place.delete("join/in/1/c.1.0")
        assert_explained(place.path, "join/in/1/c.1.0", range(4, 8))
        array = Reader(place.path).array("join/in/1")
        assert np.array_equal(array[:4], twin_rows(0, 4)["join/in/1"])
        assert np.array_equal(array[8:], twin_rows(8, 11)["join/in/1"])
        with pytest.raises(StoreCorruptError, match="rows 4 to 7 of join/in/1 is mis"):
            array[[9, 5, 1]]

    def test_a_shard_with_more_behind_it(self, place):
        make_twins(place)
        name = "join/in/0/c.1.0"
        place.write(name, place.read(name) + b"more")
        assert_explained(place.path, name, range(4, 8))

    def test_two_shards_of_one_array_are_exchanged(self, place):
        make_twins(place)
        swap(place, "join/in/0/c.0.0", "join/in/0/c.1.0")
        assert_found(
            place.path,
            {"join/in/0/c.0.0": range(4), "join/in/0/c.1.0": range(4, 8)},
        )

    def test_shards_of_two_arrays_are_exchanged(self, place):
        make_twins(place)
        swap(place, "join/in/0/c.2.0", "join/in/1/c.2.0")
        rows = range(8, 11)
        assert_found(place.path, {"join/in/0/c.2.0": rows, "join/in/1/c.2.0": rows})

    def test_a_shard_of_another_store(self, place, new_place):
        other = new_place()
        make_twins(place)
        make_twins(other, sign=-1)
        place.write("join/in/0/c.1.0", other.read("join/in/0/c.1.0"))
        assert_found(place.path, {"join/in/0/c.1.0": range(4, 8)})

    @pytest.mark.parametrize("finish", [True, False])
    def test_an_earlier_shard(self, place, finish):
        earlier = make_twins(place, finish=finish)
        place.write("join/in/1/c.1.0", earlier["join/in/1/c.1.0"])
        assert_found(place.path, {"join/in/1/c.1.0": range(4, 8)})

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("finish", [True, False])
    def test_an_array_of_another_store(self, place, new_place, finish, sign):
        """Also if it has the very same values: who knows what else is mixed up."""
        other = new_place()
        make_twins(place, finish=finish)
        make_twins(other, finish=finish, sign=sign)
        for name in place.names():
            if name.startswith("join/in/1/"):
                place.write(name, other.read(name))
        for action in (Reader, Writer.resume):
            if action is Reader or not finish:
                with pytest.raises(
                    StoreCorruptError,
                    match=r"join/in/1/zarr\.json does not have its own digest: "
                    "it is damaged, or of another store",
                ):
                    action(place.path)

    def test_an_array_in_the_place_of_another(self, place):
        make_twins(place)
        for name in place.names():
            if name.startswith("join/in/1/"):
                place.write(name, place.read(name.replace("in/1", "in/0")))
        with pytest.raises(StoreCorruptError, match=r"join/in/1/zarr\.json "):
            Reader(place.path)

    @pytest.mark.parametrize("finish", [True, False])
    def test_the_root_of_another_store(self, place, new_place, finish):
        other = new_place()
        make_twins(place, finish=finish)
        make_twins(other, finish=finish)
        place.write("zarr.json", other.read("zarr.json"))
        with pytest.raises(StoreCorruptError, match=r"zarr\.json .* of another store"):
            Reader(place.path)

    @pytest.mark.parametrize("name", ["join/in/0/zarr.json", "join/in/1/zarr.json"])
    def test_an_earlier_marker_in_a_complete_store(self, place, name):
        earlier = make_twins(place)
        place.write(name, earlier[name])
        with pytest.raises(
            StoreCorruptError, match="has 7 rows, and the complete store 11"
        ) as caught:
            Reader(place.path)
        assert f"{name} " in str(caught.value)

    def test_all_markers_are_earlier_in_a_complete_store(self, place):
        earlier = make_twins(place)
        for name in ("join/in/0/zarr.json", "join/in/1/zarr.json"):
            place.write(name, earlier[name])
        with pytest.raises(
            StoreCorruptError, match="has 7 rows, and the complete store 11"
        ):
            Reader(place.path)

    @pytest.mark.parametrize(
        "names",
        [
            ["join/in/0/zarr.json"],
            ["join/in/1/zarr.json"],
            ["join/in/0/zarr.json", "join/in/1/zarr.json"],
            ["join/in/0/zarr.json", "join/in/1/zarr.json", "zarr.json"],
        ],
    )
    def test_earlier_markers_while_more_rows_come(self, place, new_place, names):
        """As after a crash: the rows that all arrays have are right, and go on."""
        earlier = make_twins(place, finish=False)
        for name in names:
            place.write(name, earlier[name])
        reader = Reader(place.path)
        assert (reader.rows, reader.complete) == (7, False)
        for name, expected in twin_rows(0, 7).items():
            assert np.array_equal(reader.array(name)[:], expected)
        assert not complaints(place.path)
        with Writer.resume(place.path) as writer:
            assert writer.rows == 7
            writer.append(twin_rows(7, 11))
            writer.commit()
            writer.finish()
        other = new_place()
        make_twins(other)
        assert contents_of(place) == contents_of(other)

    @pytest.mark.parametrize("finish", [True, False])
    def test_an_earlier_root(self, place, finish):
        """The store is not complete then, which is all that this one says."""
        earlier = make_twins(place, finish=finish)
        place.write("zarr.json", earlier["zarr.json"])
        reader = Reader(place.path)
        assert (reader.rows, reader.complete) == (11, False)
        assert not complaints(place.path)

    @pytest.mark.parametrize("name", ["join/in/0/zarr.json", "join/zarr.json"])
    def test_metadata_that_is_missing(self, place, name):
        make_twins(place)
        place.delete(name)
        with pytest.raises(StoreCorruptError, match=f"{name} is missing"):
            Reader(place.path).check_groups()

    @pytest.mark.parametrize(
        "name", ["zarr.json", "join/in/0/zarr.json", "join/in/zarr.json"]
    )
    def test_metadata_that_is_cut_anywhere(self, place, name):
        make_twins(place)
        good = place.read(name)
        for length in range(0, len(good), self.every):
            place.write(name, good[:length])
            with pytest.raises(StoreCorruptError, match=f"{name} is damaged"):
                Reader(place.path).check_groups()

    @pytest.mark.parametrize("block", [0, 1, 2])
    def test_resuming_with_a_damaged_block(self, place, block):
        """Only the last block is read again: rows are going to be added to it."""
        make_twins(place, finish=False)
        name = f"join/in/1/c.{block}.0"
        place.delete(name)
        if block < 2:
            Writer.resume(place.path).close()
            assert_explained(place.path, name, range(4 * block, 4 * block + 4))
        else:
            before = contents_of(place)
            with pytest.raises(StoreCorruptError, match="rows 8 to 10 of join/in/1 is"):
                Writer.resume(place.path)
            assert contents_of(place) == before

    def test_resuming_with_a_block_that_is_another(self, place):
        make_twins(place, finish=False)
        swap(place, "join/in/0/c.2.0", "join/in/1/c.2.0")
        before = contents_of(place)
        with pytest.raises(StoreCorruptError, match="rows 8 to 10 of join/in/0 holds"):
            Writer.resume(place.path)
        assert contents_of(place) == before

    @pytest.mark.parametrize("compression", [None, "zstd"])
    def test_chunks_that_an_earlier_shard_does_not_have(self, place, compression):
        _, earlier = make_chunks(place, compression)
        place.write("a/c.0.0", earlier)
        array = Reader(place.path).array("a")
        for row in range(4, 8):
            with pytest.raises(StoreCorruptError, match="rows 0 to 7 of a is damaged"):
                array[row]
        assert_explained(place.path, "a/c.0.0", range(8))

    @pytest.mark.parametrize("compression", [None, "zstd"])
    @pytest.mark.parametrize("chunk", range(4))
    def test_a_chunk_that_is_missing_is_not_zeros(self, place, compression, chunk):
        """The index of the shard, four entries and a checksum, is without one."""
        rows, _ = make_chunks(place, compression)
        shard = bytearray(place.read("a/c.0.0"))
        start = len(shard) - (4 * 16 + 4)
        assert crc32c(shard[start:-4]) == int.from_bytes(shard[-4:], "little")
        shard[start + 16 * chunk : start + 16 * chunk + 16] = b"\xff" * 16
        shard[-4:] = crc32c(shard[start:-4]).to_bytes(4, "little")
        place.write("a/c.0.0", bytes(shard))
        array = Reader(place.path).array("a")
        for row in range(8):
            if row // 2 == chunk:
                with pytest.raises(StoreCorruptError, match="rows 0 to 7 of a is dam"):
                    array[row]
            else:
                assert np.array_equal(array[row], rows[row])
        assert_explained(place.path, "a/c.0.0", range(8))
