"""The file that HDF5 writes to: its errors wait, since HDF5 crashes of them."""

import os


class Disk:
    """A file for HDF5, which crashes if it can't write: `check` raises such an error.

    Bytes that are written after the error stay in memory, since HDF5 may read them.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = self._end = 0
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raises the error of the first write that failed."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a place, from the start or from the end."""
        self._place = offset + (self._end if whence == os.SEEK_END else 0)
        return self._place

    def tell(self) -> int:
        """Returns the place."""
        return self._place

    def write(self, data: memoryview) -> None:
        """Writes bytes at the place, all of them."""
        data, start = memoryview(data).cast("B"), self._place
        self._place += len(data)
        self._end = max(self._end, self._place)
        done = 0
        try:
            while self._error is None and done < len(data):
                done += os.pwrite(self._descriptor, data[done:], start + done)
        except OSError as error:
            self._error = error
        if done < len(data):
            self._unwritten.append((start, bytes(data)))

    def readinto(self, buffer: memoryview) -> int:
        """Reads bytes at the place, zeros where none were written."""
        view = memoryview(buffer).cast("B")
        read = bytearray(os.pread(self._descriptor, len(view), self._place))
        read += bytes(len(view) - len(read))
        for start, data in self._unwritten:
            first = max(start - self._place, 0)
            part = data[max(self._place - start, 0) :][: max(len(read) - first, 0)]
            read[first : first + len(part)] = part
        view[:] = read
        return len(view)

    read = readinto  # by which h5py knows a file

    def truncate(self, size: int) -> None:
        """Sets the size of the file."""
        self._end = size
        if self._error is None:
            os.ftruncate(self._descriptor, size)

    def flush(self) -> None:
        """Does nothing: no bytes wait."""
