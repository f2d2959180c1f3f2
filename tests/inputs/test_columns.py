"""Columns of data are inputs, labels, weights, ids, or named as not used."""

from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import layertap
from layertap.errors import DataError, DataTypeError, LayertapError, OptionError
from layertap.inputs.data_file import load_data
from layertap.inputs.feed import Feed
from layertap.inputs.parquet import ParquetColumn
from layertap.tracing.model_structure import input_specs
from tests.support.plants import COLUMNS, NAMES, ROWS, SPECIES, Subclassed, X, model

pytestmark = pytest.mark.one_backend


def npz(folder):
    np.savez(folder / "x.npz", **COLUMNS)
    return folder / "x.npz"


def parquet(folder):
    pq.write_table(pa.table(COLUMNS | {"x": X.tolist()}), folder / "x.parquet")
    return folder / "x.parquet"


def zarr_group(folder):
    group = zarr.open_group(folder / "x.zarr", mode="w")
    for name in ("x", "species", "note"):
        group.create_array(name, data=COLUMNS[name])
    group.create_array("name", data=np.arange(ROWS) + 1000)
    return folder / "x.zarr"


def folders(folder):
    for number in range(4):
        rows = np.arange(number * 10, number * 10 + 10)
        below = folder / "table" / f"species={number}"
        below.mkdir(parents=True)
        columns = {"x": X[rows].tolist(), "name": NAMES[rows], "note": np.zeros(10)}
        pq.write_table(pa.table(columns), below / "part.parquet", row_group_size=4)
    return folder / "table"


def test_labels_are_in_the_names_of_folders(tmp_path):
    table, path, options = folders(tmp_path), tmp_path / "v.zarr", {"ids": "name"}
    saved = layertap.save(model(), table, path, labels="species", **options)
    np.testing.assert_array_equal(saved.labels[:], np.arange(ROWS) // 10)
    assert saved.ids.tolist() == NAMES.tolist()
    assert saved.not_used == ["note"]
    feed = Feed(str(table), input_specs(model()), 8, anywhere=True, labels="species")
    (batch,) = feed.batches(17, 24)
    np.testing.assert_array_equal(batch.inputs, X[16:24])
    np.testing.assert_array_equal(batch.labels, [1, 1, 1, 1, 2, 2, 2, 2])


def test_names_of_folders_may_be_inputs(tmp_path):
    x, species = keras.Input((3,), name="x"), keras.Input((1,), name="species")
    network = keras.Model([x, species], keras.layers.Concatenate()([x, species]))
    values = layertap.capture(network, folders(tmp_path), ids="name")
    (join,) = values.plan.joins
    made = np.arange(ROWS, dtype="float32")[:, None] // 10
    np.testing.assert_array_equal(values[join.addresses[1]], made)


def test_a_bucket_holds_parquet_or_zarr(object_store, tmp_path):
    bucket = object_store.bucket()
    for write in (parquet, zarr_group, folders):
        write(tmp_path)
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        name = file.relative_to(tmp_path).as_posix()
        object_store.object("PUT", bucket, name, file.read_bytes())
    specs = input_specs(model())
    for name in ("x.zarr", "x.parquet", "table"):
        data = load_data(f"s3://{bucket}/{name}", specs)
        assert isinstance(data["x"], ParquetColumn) is (name != "x.zarr")
        np.testing.assert_array_equal(data["x"][5:21], X[5:21])
    for name in ("gone.zarr", "gone.parquet", "gone"):
        with pytest.raises(DataError, match=rf"{name} is not supported as data"):
            load_data(f"s3://{bucket}/{name}", specs)


def dictionary(folder):
    return dict(COLUMNS)


@pytest.mark.parametrize("write", [npz, parquet, zarr_group, dictionary])
@pytest.mark.parametrize("build", [model, Subclassed])
def test_labels_and_ids_have_any_name(tmp_path, write, build):
    network, source = build(), write(tmp_path)
    names = {"labels": "species", "ids": "name"}
    data = source
    if not isinstance(source, dict):
        data = load_data(source, input_specs(network), names.values())
        if build is Subclassed:
            # Whatever is left would be an input.
            del data["note"]
    elif build is Subclassed:
        del data["note"]
    saved = layertap.save(network, data, tmp_path / "v.zarr", **names)
    np.testing.assert_array_equal(saved.labels[:], SPECIES)
    ids = NAMES if write is not zarr_group else np.arange(ROWS) + 1000
    assert saved.ids.tolist() == ids.tolist()
    assert saved.not_used == ([] if build is Subclassed else ["note"])
    (join,) = saved.plan.joins
    np.testing.assert_array_equal(saved[join.addresses[0]][:], X)
    assert layertap.verify(saved, network, data, **names)
    values = layertap.capture(network, data, **names)
    np.testing.assert_array_equal(values.labels, SPECIES)
    np.testing.assert_array_equal(values.ids, ids)
    # Complete: it is compared with the data.
    assert layertap.save(network, data, tmp_path / "v.zarr", **names).rows == ROWS


def test_columns_called_labels_and_ids_are_found_unless_others_are_named(tmp_path):
    columns = {"x": X, "labels": SPECIES, "ids": NAMES, "sample_weight": X[:, 0]}
    saved = layertap.save(model(), columns, tmp_path / "v.zarr")
    np.testing.assert_array_equal(saved.labels[:], SPECIES)
    np.testing.assert_array_equal(saved.sample_weight[:], X[:, 0])
    assert saved.ids.tolist() == NAMES.tolist()
    assert saved.not_used == []
    columns["kind"] = -SPECIES
    ids, path = np.arange(ROWS)[::-1], tmp_path / "w.zarr"
    saved = layertap.save(model(), columns, path, labels="kind", ids=ids)
    np.testing.assert_array_equal(saved.labels[:], -SPECIES)
    np.testing.assert_array_equal(saved.ids, ids)
    assert saved.not_used == ["labels", "ids"]
    assert repr(saved).endswith("complete, not used: 'labels', 'ids'>")


def test_an_input_may_be_the_labels_too(tmp_path):
    values = layertap.capture(model(), {"x": X}, labels="x")
    np.testing.assert_array_equal(values.labels, X)
    np.testing.assert_array_equal(values["fusion/in/0"], X)


@pytest.mark.parametrize("dtype", [object, "<U9", "S9"])
def test_labels_that_are_strings_are_numbers_with_names(tmp_path, dtype):
    kinds = np.array(["setosa", "virginica", "gloriosa", "setosa"] * 10, dtype)
    names = ["gloriosa", "setosa", "virginica"]
    saved = layertap.save(model(), (X, kinds), tmp_path / "v.zarr")
    assert saved.class_names == names
    assert saved.labels[:].tolist() == [1, 2, 0, 1] * 10
    assert layertap.verify(saved, model(), (X, kinds))
    values = layertap.capture(model(), (X, kinds))
    assert values.labels.tolist() == kinds.astype(str).tolist()
    french = np.char.replace(kinds.astype(str), "gloriosa", "glorieuse")
    other = layertap.save(model(), (X, french), tmp_path / "u.zarr")
    assert other.labels[:].tolist() == saved.labels[:].tolist()
    found = layertap.diff(saved, other)["labels"]
    assert found.verdict == "different"
    assert found.why.startswith("classes gloriosa, setosa, virginica in A, glorieuse,")
    for wrong in (None, b"\xff"):
        mixed = np.array([*kinds[:-1], wrong], object)
        with pytest.raises(DataTypeError, match="label of row 39 is invalid"):
            layertap.capture(model(), (X, mixed))
    batches = iter([(X, kinds)])
    with pytest.raises(DataTypeError, match="one array of strings for all rows"):
        layertap.save(model(), batches, tmp_path / "w.zarr")


def test_paths_stand_for_the_model_and_the_data(tmp_path):
    network, x = model(), npz(tmp_path)
    file = str(tmp_path / "model.keras")
    network.save(file)
    assert layertap.plan(file, like=x) == layertap.plan(network, like=X)
    names = {"labels": "species", "ids": "name"}
    saved = layertap.save(file, x, tmp_path / "v.zarr", **names)
    np.testing.assert_array_equal(saved["fusion/in/1"][:], X)
    np.testing.assert_array_equal(saved.labels[:], SPECIES)
    assert layertap.verify(tmp_path / "v.zarr", file, str(x), **names)
    np.save(tmp_path / "x.npy", X)
    values = layertap.capture(Path(file), tmp_path / "x.npy")
    np.testing.assert_array_equal(values["fusion/in/0"], X)


class Batches(keras.utils.PyDataset):
    """Batches of 16 rows that are dictionaries."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        rows = slice(number * 16, min((number + 1) * 16, ROWS))
        columns = {"x": X, "species": SPECIES, "number": np.arange(ROWS), "note": NAMES}
        return {name: array[rows] for name, array in columns.items()}


def stream():
    return map(Batches().__getitem__, range(3))


@pytest.mark.parametrize("build", [Batches, stream])
def test_batches_may_be_dictionaries(tmp_path, build):
    data = build()
    names = {"labels": "species", "ids": "number"}
    saved = layertap.save(model(), data, tmp_path / "v.zarr", **names)
    np.testing.assert_array_equal(saved.labels[:], SPECIES)
    np.testing.assert_array_equal(saved.ids, np.arange(ROWS))
    assert saved.not_used == ["note"]
    values = layertap.capture(model(), Batches(), labels="species", ids="note")
    np.testing.assert_array_equal(values.ids, NAMES)


@pytest.mark.parametrize(
    "ids", [NAMES, NAMES.astype(bytes), NAMES.astype(object), np.array(["é"] * ROWS)]
)
def test_ids_that_come_in_batches_may_be_strings(tmp_path, ids):
    def batches(ids=ids, size=16):
        for row in range(0, ROWS, size):
            yield {"x": X[row : row + size], "name": ids[row : row + size]}

    saved = layertap.save(model(), batches(), tmp_path / "v.zarr", ids="name")
    texts = [i.decode() if isinstance(i, bytes) else i for i in ids.tolist()]
    assert saved.ids.tolist() == texts
    assert layertap.save(model(), batches(), tmp_path / "v.zarr", ids="name").complete
    # The first batch decides how long ids may be.
    tens = np.array(["i" * (40 if row < 16 else 70) for row in range(ROWS)])
    layertap.save(model(), batches(tens), tmp_path / "t.zarr", ids="name")
    layertap.save(model(), batches(tens, 32), tmp_path / "t.zarr", ids="name")
    changed = np.array([*texts[:-1], "other"])
    with pytest.raises(layertap.OtherRunError, match=r"ids of row 39 is .* and other"):
        layertap.save(model(), batches(changed), tmp_path / "v.zarr", ids="name")
    longer = np.array([*texts[:-1], "é" * 33])
    with pytest.raises(DataError, match=r"from row 32 on is too long.*64 bytes.*66"):
        layertap.save(model(), batches(longer), tmp_path / "w.zarr", ids="name")
    for wrong in (np.array([*texts[:-1], None]), np.arange(ROWS) / 2):
        with pytest.raises(DataTypeError, match="The ids are invalid"):
            layertap.save(model(), batches(wrong), tmp_path / "u.zarr", ids="name")


def test_other_labels_or_ids_of_a_column_are_another_run(tmp_path):
    layertap.save(model(), COLUMNS, tmp_path / "v.zarr", labels="species", ids="name")
    changed = COLUMNS | {"species": np.where(np.arange(ROWS) == 37, 9, SPECIES)}
    with pytest.raises(layertap.OtherRunError, match="labels of row 37"):
        layertap.save(
            model(), changed, tmp_path / "v.zarr", labels="species", ids="name"
        )
    with pytest.raises(layertap.OtherRunError, match="ids: the store has text"):
        layertap.save(model(), COLUMNS, tmp_path / "v.zarr", labels="species")
    # The same labels and ids, apart from the inputs.
    layertap.save(model(), (X, SPECIES), tmp_path / "v.zarr", ids=NAMES)


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (COLUMNS, {"labels": "spcies"}, DataError, "no column 'spcies'.*'species'"),
        (COLUMNS, {"ids": "Name"}, DataError, "no column 'Name' for `ids`.*'name'"),
        (X, {"labels": "species"}, OptionError, "no columns.*Received ndarray"),
        ((COLUMNS, SPECIES), {"labels": "species"}, OptionError, "tuple with labels"),
        (COLUMNS, {"labels": SPECIES}, OptionError, r"Received ndarray.*\(x, labels\)"),
        (
            {"species": SPECIES},
            {"labels": "species"},
            DataError,
            "hold no input.*Received 'species'",
        ),
        (COLUMNS, {"ids": "x"}, DataError, r"one integer or string.*\(40, 3\)"),
        (
            COLUMNS | {"name": NAMES[:, None]},
            {"labels": "name"},
            DataTypeError,
            "labels of dtype <U.*`ids=`",
        ),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, data, options, error, words):
    with pytest.raises(error, match=words) as raised:
        layertap.save(model(), data, tmp_path / "v.zarr", **options)
    assert isinstance(raised.value, LayertapError)


def test_columns_do_not_change_from_batch_to_batch():
    batches = iter([{"x": X, "label": SPECIES}, {"x": X}])
    feed = Feed(batches, input_specs(model()), labels="label")
    with pytest.raises(DataError, match="no column 'label' for `labels`"):
        list(feed.batches())
