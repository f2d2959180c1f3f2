"""The same call on data that have more rows by now goes on after a complete store."""

import itertools

import numpy as np
import pytest

import layertap
from layertap.errors import DataError, OtherRunError, StoreError
from tests.support.resumes import (
    EVERY,
    ROWS,
    SMALL,
    StoppedError,
    files,
    numbers,
    stream,
    two_branches,
)
from tests.support.statistics import assert_right

pytestmark = pytest.mark.one_backend

X = numbers()
# No multiple of a batch of 32, nor of a block; and more of them, in the same batch too.
SIZES = (650, 655, ROWS)


def grow(path, *, sizes=SIZES, ids=None, **options):
    """Saves the first rows, then more, with the same call."""
    options = {"memory": SMALL} | options
    for rows in sizes:
        text = None if ids is None else ids[:rows]
        data = X[:rows], EVERY[:rows]
        saved = layertap.save(two_branches(), data, path, ids=text, **options)
        assert (saved.rows, saved.complete) == (rows, True)
    return saved


def batches(rows):
    """The same rows in the batches of arrays."""
    starts = range(0, rows, 32)
    return [(X[:rows][at : at + 32], EVERY[:rows][at : at + 32]) for at in starts]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A store that never grew."""
    return grow(tmp_path_factory.mktemp("once") / "v.zarr", sizes=[ROWS])


@pytest.mark.every_backend
def test_rows_are_added_after_a_complete_store(tmp_path, once):
    saved = grow(tmp_path / "v.zarr")
    assert saved.labels[:].tolist() == EVERY.tolist()
    for address, array in once.items():
        np.testing.assert_allclose(saved[address][:], array[:], rtol=1e-5, atol=1e-6)
        assert_right(saved.statistics[address], saved[address][:], 1)
    report = layertap.verify(saved, two_branches(), X, rows=None)
    assert report, report
    assert report.other_inputs == 0
    assert layertap.verify(saved)
    before = files(tmp_path / "v.zarr")
    assert grow(tmp_path / "v.zarr", sizes=[ROWS]).complete
    assert files(tmp_path / "v.zarr") == before


def test_a_store_that_grew_by_complete_batches_is_as_if_it_never_had(tmp_path, once):
    path = tmp_path / "v.zarr"
    saved = grow(path, sizes=(640, ROWS))
    whole = files(tmp_path / once.path)
    assert {f.name: len(c) for f, c in files(path).items()} == {
        f.name: len(c) for f, c in whole.items()
    }
    assert saved.reader.attributes["statistics"] == once.reader.attributes["statistics"]
    for name in once.reader.paths:
        array = once.reader.array(name)
        assert saved.reader.array(name)[:].tobytes() == array[:].tobytes()


def test_added_rows_are_in_blocks_of_the_size_that_is_there(tmp_path):
    saved = grow(tmp_path / "v.zarr", sizes=(10, 40, ROWS), memory=2**20)
    small = layertap.save(two_branches(), X[:10], tmp_path / "small.zarr")
    assert saved.reader.block_rows == small.reader.block_rows
    assert layertap.verify(saved, two_branches(), X)


@pytest.mark.parametrize("once_only", [False, True])
def test_a_stream_goes_on_where_it_ended_before(tmp_path, once, once_only):
    for rows in SIZES:
        data = batches(rows)
        data = iter(data) if once_only else dict(enumerate(data)).values()
        saved = layertap.save(two_branches(), data, tmp_path / "v.zarr", memory=SMALL)
        assert (saved.rows, saved.complete) == (rows, True)
    np.testing.assert_allclose(saved["fusion/in/0"][:], once["fusion/in/0"][:], 1e-5)


@pytest.mark.parametrize("row", [3, 333, 649])
def test_rows_of_before_that_differ_are_refused(tmp_path, row):
    path = tmp_path / "v.zarr"
    grow(path, sizes=[650])
    before = contents(path)
    x = X.copy()
    x[row] += 1
    with pytest.raises(OtherRunError, match=f"inputs of row {row} are not those"):
        layertap.save(two_branches(), (x, EVERY), path, memory=SMALL)
    assert contents(path) == before
    replaced = layertap.save(two_branches(), (x, EVERY), path, overwrite=True)
    assert layertap.verify(replaced, two_branches(), x, rows=None).other_inputs == 0


def contents(path):
    """All files, the root too."""
    return files(path) | {None: (path / "zarr.json").read_bytes()}


def test_data_that_fail_before_the_first_added_row_change_nothing(tmp_path):
    path = tmp_path / "v.zarr"
    layertap.save(two_branches(), itertools.islice(stream(X), 31), path)
    before = contents(path)
    with pytest.raises(StoppedError):
        layertap.save(two_branches(), stream(X, stop=620), path)
    assert contents(path) == before
    with pytest.raises(StoppedError):
        layertap.save(two_branches(), stream(X, stop=700), path)
    part = layertap.open(path)
    assert (part.rows, part.complete) == (700, False)
    assert layertap.save(two_branches(), stream(X), path).complete


def test_a_save_that_stops_while_it_adds_rows(tmp_path, once):
    path, failing = tmp_path / "v.zarr", iter(range(8))

    def stop(rows, written):
        if next(failing, None) is None:
            raise StoppedError

    grow(path, sizes=[650])
    with pytest.raises(StoppedError):
        grow(path, sizes=[ROWS], progress=stop)
    part = layertap.open(path)
    assert not part.complete
    assert 650 < part.rows < ROWS
    assert "statistics" not in part.reader.attributes
    for address, array in once.items():
        expected = array[: part.rows]
        np.testing.assert_allclose(part[address][:], expected, rtol=1e-5, atol=1e-6)
    assert layertap.verify(part)
    saved = grow(path, sizes=[ROWS])
    assert layertap.verify(saved, two_branches(), X, rows=None).other_inputs == 0


def test_text_ids_of_added_rows(tmp_path):
    """They have the room that the first rows have, and up to 15 bytes more."""
    names = [f"row {n}" for n in range(ROWS)]
    path = tmp_path / "v.zarr"
    assert grow(path, ids=names).ids.tolist() == names
    assert grow(path, ids=names, sizes=[ROWS]).ids.tolist() == names
    other = tmp_path / "short.zarr"
    shorter = names[:650] + [f"r{n}" for n in range(650, ROWS)]
    assert grow(other, ids=shorter).ids.tolist() == shorter
    longer = [*names, "an id of 17 bytes"]
    before = contents(path)
    x = np.concatenate([X, X[:1]])
    with pytest.raises(OtherRunError, match="ids: the store has room for 16 bytes"):
        layertap.save(two_branches(), (x, np.arange(1001)), path, ids=longer)
    with pytest.raises(DataError, match="ids"):
        layertap.save(two_branches(), (x, np.arange(1001)), path, ids=names)
    assert contents(path) == before
    longer[-1] = "row 1000"
    saved = layertap.save(two_branches(), (x, np.arange(1001)), path, ids=longer)
    assert saved.ids.tolist() == longer


def test_labels_of_added_rows_that_are_strings(tmp_path):
    """New classes come after those that have a number."""
    path = tmp_path / "v.zarr"
    kinds = np.array(["z", "a"] * 325 + ["m", "b"] * 175)

    def save(names, rows=ROWS, **options):
        return layertap.save(two_branches(), (X[:rows], names[:rows]), path, **options)

    assert save(kinds, 650).class_names == ["a", "z"]
    before = contents(path)
    other = np.where(kinds == "z", "y", kinds)
    for rows in (650, ROWS):
        with pytest.raises(OtherRunError, match="labels of row 0 is 1 in the store"):
            save(other, rows)
    with pytest.raises(OtherRunError, match="has the classes a, z, the data none"):
        save(np.arange(ROWS))
    assert contents(path) == before
    saved = save(kinds)
    assert saved.class_names == ["a", "z", "b", "m"]
    assert [saved.class_names[number] for number in saved.labels[:]] == kinds.tolist()
    assert save(kinds).reader.store == saved.reader.store
    # Another store has its own.
    replaced = save(other, overwrite=True)
    assert replaced.class_names == ["a", "b", "m", "y"]
    assert [replaced.class_names[n] for n in replaced.labels[:]] == other.tolist()


def test_a_store_does_not_grow_if_it_may_not_be_resumed(tmp_path):
    path = tmp_path / "v.zarr"
    grow(path, sizes=[650])
    before = contents(path)
    for data in ((X, EVERY), iter(batches(ROWS))):
        with pytest.raises(StoreError, match="has 650 rows of this run, and the data"):
            layertap.save(two_branches(), data, path, resume=False)
    assert contents(path) == before
    id_before = layertap.open(path).reader.store
    saved = grow(path, sizes=[ROWS], resume=False, overwrite=True)
    assert saved.reader.store != id_before
    assert grow(path, sizes=[ROWS], overwrite=True).reader.store == saved.reader.store
