"""Tables of other libraries are data: their columns are inputs, labels and ids."""

import sys
from types import ModuleType

import keras
import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pytest

import layertap
from layertap.errors import DataError, DataTypeError
from tests.support.plants import NAMES, ROWS, SPECIES, Subclassed, X, model

pytestmark = pytest.mark.one_backend


# Imported where they are used: that takes a second and more.
def polars_frame(columns):
    import polars

    return polars.DataFrame(columns)


def hugging_face(columns):
    import datasets

    return datasets.Dataset.from_dict(columns)


def structured(columns):
    kinds = [(name, np.asarray(array).dtype) for name, array in columns.items()]
    array = np.empty(ROWS, kinds)
    for name, column in columns.items():
        array[name] = column
    return array


TABLES = {
    "pandas": pd.DataFrame,
    "polars": polars_frame,
    "Arrow": pa.table,
    "Arrow in batches": lambda columns: pa.table(columns).to_batches()[0],
    "Hugging Face": hugging_face,
    "structured": structured,
}
FLOWERS = {f"column {i}": X[:, i] for i in range(3)} | {"species": SPECIES}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_has_inputs_by_name(tmp_path, table):
    inputs = [keras.Input((1,), name=name) for name in list(FLOWERS)[:2]]
    join = keras.layers.Concatenate(name="fusion")(inputs)
    network = keras.Model(inputs, join, name="two")
    columns = FLOWERS | {"name": NAMES.tolist()}
    data, names = table(columns), {"labels": "species", "ids": "name"}
    saved = layertap.save(network, data, tmp_path / "v.zarr", **names, batch_size=7)
    for number in range(2):
        values = saved[f"fusion/in/{number}"][:]
        np.testing.assert_array_equal(values, X[:, number : number + 1])
    np.testing.assert_array_equal(saved.labels[:], SPECIES)
    assert saved.ids.tolist() == NAMES.tolist()
    assert saved.not_used == ["column 2"]
    assert layertap.verify(saved, network, data, **names)


@pytest.mark.parametrize("build", [model, Subclassed])
@pytest.mark.parametrize("name", TABLES)
def test_columns_of_a_frame_are_one_input_side_by_side(build, name):
    values = layertap.capture(build(), TABLES[name](FLOWERS), labels="species")
    (join,) = values.plan.joins
    np.testing.assert_array_equal(values[join.addresses[0]], X)
    np.testing.assert_array_equal(values.labels, SPECIES)
    frame = TABLES[name](FLOWERS | {"name": NAMES.tolist()})
    with pytest.raises(DataError, match="Column 'name' can't be part of the model's"):
        layertap.capture(build(), frame, labels="species")


def table_of(x, **columns):
    lists = pa.FixedSizeListArray.from_arrays(X.reshape(-1), 3)
    return pa.table({"x": lists if x is None else x, **columns})


@pytest.mark.parametrize("kind", ["Categorical", "Enum"])
def test_categories_of_polars_are_labels(kind):
    import polars

    kinds = ["b", "a"] * (ROWS // 2)
    dtype = polars.Enum(["b", "a"]) if kind == "Enum" else polars.Categorical
    labels = polars.Series("labels", kinds, dtype=dtype)
    frame = polars.DataFrame([polars.Series("x", X), labels])
    assert layertap.capture(model(), frame).labels.tolist() == kinds


def test_values_that_are_missing_matter_in_columns_that_are_used(tmp_path):
    table = table_of(None, note=[None] * ROWS)
    assert layertap.save(model(), table, tmp_path / "v.zarr").not_used == ["note"]
    with pytest.raises(DataError, match=r"Column 'note' .* missing: 40"):
        layertap.capture(model(), table, ids="note")
    missing = [None, *X[1:].tolist()]
    inner = [[1.0, None, 2.0], *X[1:].tolist()]
    for x in (missing, inner):
        for data in (hugging_face({"x": x}), table_of(pa.array(x))):
            with pytest.raises(DataError, match=r"Column 'x'.* are missing: 1\. Fill"):
                layertap.capture(model(), data)


def test_pieces_of_an_arrow_column_may_be_empty():
    lists = pa.array(X.tolist())
    column = pa.chunked_array([lists.slice(0, 0), lists])
    values = layertap.capture(model(), table_of(column))
    np.testing.assert_array_equal(values["fusion/in/0"], X)
    with pytest.raises(DataError, match="The data are empty"):
        layertap.capture(model(), table_of(lists.slice(0, 0)))


def not_yet():
    import datasets
    import polars

    rows = hugging_face({"x": X.tolist()})
    return {
        r"data\[.train.\]": datasets.DatasetDict({"train": rows}),
        r"with_format.*\.batch\(32\)`": rows.to_iterable_dataset(),
        r"data\.collect\(\)": polars.DataFrame({"x": X}).lazy(),
        "2 columns 'q'": pd.DataFrame(X, columns=["p", "q", "q"]),
        "2 columns '0'": pd.DataFrame(X, columns=[0, "0", 1]),
    }


def test_tables_that_are_not_one_table_yet():
    for words, data in not_yet().items():
        with pytest.raises((DataError, DataTypeError), match=words):
            layertap.capture(model(), data)


def test_batches_of_a_hugging_face_stream():
    stream = hugging_face({"x": X.tolist()}).to_iterable_dataset()
    values = layertap.capture(model(), stream.with_format("numpy").batch(16))
    np.testing.assert_array_equal(values["fusion/in/0"], X)


def test_a_module_called_datasets_is_nobody_s_concern(tmp_path, monkeypatch):
    """A user's own, with classes of any name."""

    class Dataset(keras.utils.PyDataset):
        versions = column_names = None

        def __len__(self):
            return 1

        def __getitem__(self, number):
            return X, SPECIES

    Dataset.__module__ = "datasets"
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    saved = layertap.save(model(), Dataset(), tmp_path / "v.zarr")
    np.testing.assert_array_equal(saved["fusion/in/0"][:], X)


def test_lists_of_an_arrow_table_are_one_input():
    lists = pa.FixedSizeListArray.from_arrays(X.reshape(-1), 3)
    for column in (lists, pa.chunked_array([lists.slice(0, 9), lists.slice(9)])):
        values = layertap.capture(model(), pa.table({"embedding": column}))
        np.testing.assert_array_equal(values["fusion/in/0"], X)


def test_batches_may_be_frames():
    batches = (pd.DataFrame(FLOWERS).iloc[row : row + 8] for row in range(0, ROWS, 8))
    values = layertap.capture(model(), batches, labels="species")
    np.testing.assert_array_equal(values["fusion/in/0"], X)
    np.testing.assert_array_equal(values.labels, SPECIES)


def test_rows_of_a_hugging_face_data_set_are_those_that_were_chosen():
    rows = np.random.default_rng(1).permutation(ROWS)[:30]
    chosen = hugging_face({"x": X.tolist(), "labels": SPECIES}).select(rows)
    values = layertap.capture(model(), chosen, batch_size=8)
    np.testing.assert_array_equal(values["fusion/in/0"], X[rows])
    np.testing.assert_array_equal(values.labels, SPECIES[rows])
    ragged = hugging_face({"x": [[1.0, 2.0, 3.0], [1.0]]})
    with pytest.raises(DataError, match=r"Column 'x', rows 0 .* from 1 to 3 members"):
        layertap.capture(model(), ragged)


def test_images_of_a_hugging_face_data_set_are_decoded():
    import datasets

    images = np.random.default_rng(2).integers(0, 256, (3, 4, 5, 3), dtype="uint8")
    kind = datasets.Features({"x": datasets.Image()})

    def encoded(arrays):
        pictures = [PIL.Image.fromarray(array) for array in arrays]
        return datasets.Dataset.from_dict({"x": pictures}, features=kind)

    x = keras.Input((4, 5, 3), name="x")
    network = keras.Model(x, keras.layers.Concatenate(name="fusion")([x, x]))
    values = layertap.capture(network, encoded(images))
    np.testing.assert_array_equal(values["fusion/in/0"], images)
    with pytest.raises(DataError, match="Column 'x' has rows of different shapes"):
        layertap.capture(network, encoded([images[0], images[1, :2]]))
