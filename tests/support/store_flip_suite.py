"""Every bit of a store, flipped: detected, or of no consequence; never silent."""

import re
from dataclasses import dataclass, field

import pytest

from layertap.errors import LayertapError, StoreError
from layertap.store.format.layout import ArraySpec
from layertap.store.reading.reader import Reader
from layertap.store.writing.writer import Writer
from tests.support.campaign import times
from tests.support.store_rows import rows_between

ARRAYS = [
    ArraySpec("a/b", (3,), "int16", {"made_by": "left"}),
    ArraySpec("labels", (), "int64"),
]
BLOCK = 4
# What a store is like: rows, whether it is complete, compression.
STATES = {
    "complete": (10, True, "zstd"),
    "growing": (6, False, None),
    "empty": (0, False, None),
}


@dataclass
class Flips:
    """What became of flipped bits.

    Args:
        detected: How many raised an error.
        harmless: How many changed nothing that is read.
        silent: Those that changed something and were not detected, as (file, bit).
        unharmed: Those that are harmless, as (file, bit).
    """

    detected: int = 0
    harmless: int = 0
    silent: list = field(default_factory=list)
    unharmed: list = field(default_factory=list)


def make(path, state):
    """Makes a small store in one of `STATES`."""
    rows, complete, compression = STATES[state]
    memory = 3 * BLOCK * (6 + 8)
    with Writer.create(
        path, ARRAYS, {"x": [1]}, compression=compression, memory=memory
    ) as writer:
        known = rows_between(0, rows)
        values = {"a/b": known["join/in/1"][:, 1].astype("int16")}
        writer.append(values | {"labels": known["labels"]})
        writer.commit()
        if complete:
            writer.finish(lambda: {"y": "é"})


def everything_read(path):
    """All that can be known of a store, after all of it was checked."""
    reader = Reader(path)
    for name in reader.paths:
        for _, error in reader.array(name).check():
            if error is not None:
                raise error
    reader.check_groups()
    arrays = {
        name: (array.dtype, array.shape, array[:].tobytes(), array.attributes)
        for name, array in ((name, reader.array(name)) for name in reader.paths)
    }
    return reader.rows, reader.complete, reader.attributes, arrays


def flip(place, name, every=1):
    """Flips every bit of a file, or every so many, one at a time; puts it back then."""
    flips = Flips()
    expected = everything_read(place.path)
    good = place.read(name)
    for bit in range(0, 8 * len(good), every):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        place.write(name, bytes(bad))
        try:
            found = everything_read(place.path)
        except StoreError:
            flips.detected += 1
        except Exception as error:
            error.add_note(f"bit {bit} of {name}")
            raise
        else:
            if found == expected:
                flips.harmless += 1
                flips.unharmed.append((name, bit))
            else:
                flips.silent.append((name, bit))
    place.write(name, good)
    return flips


def flip_all(place, every=1):
    """Flips bits of every file of a store; returns what became of them, by file."""
    return {name: flip(place, name, every) for name in place.names()}


def digits_of_rows(name, content):
    """The bits of the number of rows that an array's `zarr.json` tells."""
    found = re.search(rb'"shape": \[\s*(\d+)', content)
    start, stop = found.span(1)
    return {(name, bit) for bit in range(8 * start, 8 * stop)}


class FlipSuite:
    """What single bits do that change, on any storage.

    Attributes:
        every: Every so many bits are flipped. In a share that is an odd number, which
            comes to each bit of a byte.
    """

    every = times(15, 1)

    @pytest.mark.campaign
    @pytest.mark.parametrize("state", STATES)
    def test_no_flipped_bit_is_silent(self, new_place, state):
        place = new_place()
        make(place.path, state)
        blocks = -(-STATES[state][0] // BLOCK)
        names = {"zarr.json", "a/zarr.json", "a/b/zarr.json", "labels/zarr.json"}
        shards = {f"a/b/c.{n}.0" for n in range(blocks)}
        shards |= {f"labels/c.{n}" for n in range(blocks)}
        assert set(place.names()) == names | shards
        for name, flips in flip_all(place, self.every).items():
            content = place.read(name)
            bits = len(range(0, 8 * len(content), self.every))
            assert flips.detected + flips.harmless == bits, flips.silent
            if name in shards:
                assert flips.detected == bits, flips.unharmed
            elif name.startswith(tuple(array.path for array in ARRAYS)):
                assert not digits_of_rows(name, content) & set(flips.unharmed)
                assert flips.detected == bits, flips.unharmed
            elif name == "zarr.json":
                # All that is layertap's is sealed.
                sealed = 8 * content.index(b'"layertap"')
                assert not [bit for _, bit in flips.unharmed if bit >= sealed]

    def test_no_flipped_bit_is_silent_for_those_that_add_rows(self, new_place):
        place = new_place()
        make(place.path, "growing")
        rows = Reader(place.path).rows
        for name in ("zarr.json", "a/b/zarr.json", "labels/zarr.json"):
            good = place.read(name)
            for bit in range(0, 8 * len(good), 7 * self.every):
                bad = bytearray(good)
                bad[bit // 8] ^= 1 << bit % 8
                place.write(name, bytes(bad))
                try:
                    with Writer.resume(place.path) as writer:
                        assert writer.rows == rows, (name, bit)
                except LayertapError:
                    pass
            place.write(name, good)
