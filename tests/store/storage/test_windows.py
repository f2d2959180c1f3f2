"""Stores are read without the modules that Windows lacks, and not written there."""

import numpy as np

from tests.support.export_stores import store
from tests.support.faults import python, run

READ = """
import sys
from tests.support import windows
windows.leave_posix()
import numpy as np
import layertap
path, arrays, page = sys.argv[1:]
saved = layertap.open(path)
for address, rows in np.load(arrays).items():
    if address in saved:
        assert saved[address][:].tobytes() == rows.tobytes(), address
        assert saved[address][[3, 1]].tobytes() == rows[[3, 1]].tobytes(), address
        print(address)
layertap.report(saved, page)
"""
WRITE = """
import sys
from tests.support import windows
windows.leave_posix()
import layertap
from tests.support.export_stores import store
try:
    store(sys.argv[1])
except layertap.StoreError as error:
    print(error)
try:
    layertap.export(sys.argv[2], sys.argv[3])
except layertap.StoreError as error:
    print(error)
"""
REFUSED = (
    "Stores and exports can't be written on this system, which can't lock folders. "
    "Expected Linux or another POSIX system. Received win32. Write them there or in "
    "WSL, and read the store here."
)


def test_a_store_is_read_and_shown(tmp_path):
    saved, arrays = store(tmp_path / "v.zarr")
    rows = {name: bytes_of_rows(array) for name, array in arrays.items()}
    np.savez(tmp_path / "rows.npz", **rows)
    page = tmp_path / "page.html"
    read = run(python(READ, saved.path, tmp_path / "rows.npz", page))
    assert read == [value.address for value in saved.plan.stored]
    assert "fusion/in/0" in page.read_text("utf-8")


def test_stores_and_exports_are_refused_in_one_line(tmp_path):
    store(tmp_path / "v.zarr")
    new, file = tmp_path / "new.zarr", tmp_path / "v.npz"
    assert run(python(WRITE, new, tmp_path / "v.zarr", file)) == [REFUSED, REFUSED]
    assert [path.name for path in tmp_path.iterdir()] == ["v.zarr"]


def bytes_of_rows(array):
    """Returns an array that NumPy's files can hold: some dtypes are not NumPy's."""
    return np.frombuffer(array.tobytes(), "u1").reshape(len(array), -1)
