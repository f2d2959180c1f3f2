"""The file that HDF5 writes to, before and after a write has failed."""

import errno
import os

import pytest

from layertap.exports.hdf5_disk import Disk


@pytest.fixture
def disk(tmp_path):
    with (tmp_path / "x").open("w+b", buffering=0) as file:
        yield Disk(file.fileno())


def read(disk, start, size):
    buffer = bytearray(size)
    disk.seek(start)
    assert disk.readinto(memoryview(buffer)) == size
    return bytes(buffer)


def write(disk, start, data):
    disk.seek(start)
    disk.write(memoryview(data))
    assert disk.tell() == start + len(data)


def test_bytes_are_read_as_they_were_written(disk):
    write(disk, 2, b"abc")
    write(disk, 3, b"X")
    assert read(disk, 0, 7) == b"\0\0aXc\0\0"
    assert disk.seek(0, os.SEEK_END) == 5
    disk.truncate(4)
    assert disk.seek(0, os.SEEK_END) == 4
    assert read(disk, 0, 6) == b"\0\0aX\0\0"
    disk.check()


def test_a_write_in_parts_is_completed(disk, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, data, at: whole(f, data[:2], at))
    write(disk, 1, b"abcde")
    assert read(disk, 0, 6) == b"\0abcde"


def test_after_an_error_all_bytes_are_still_there(disk, monkeypatch):
    write(disk, 0, b"0123456789")

    def full(*call):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    write(disk, 3, b"abc")
    monkeypatch.undo()
    write(disk, 5, b"XYZ")
    write(disk, 12, b"end")
    expected = b"012abXYZ89\0\0end\0"
    for start in range(16):
        for stop in range(start + 1, 17):
            found = read(disk, start, stop - start)
            assert found == expected.ljust(17, b"\0")[start:stop]
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            disk.check()
