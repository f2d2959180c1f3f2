"""Data that many workers open: each has the same rows, from any row on."""

import os
import pickle
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import tensorflow as tf
import torch
import zarr

from layertap.distributed.ray_arrays import put_array
from layertap.distributed.shared_data import SharedData, share
from layertap.errors import DataError, DataTypeError
from layertap.inputs.feed import Feed
from layertap.inputs.images import ImageFolder

pytestmark = pytest.mark.ray

# Its functions and classes go to the workers, which can't import it.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS, SIZE = 230, 50
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
B = np.arange(ROWS * 2, dtype="int32").reshape(ROWS, 2)
Y = np.arange(ROWS)
WEIGHTS = np.linspace(0, 1, ROWS, dtype="float32")


def of_one() -> keras.Model:
    x = keras.Input((3,), name="x")
    return keras.Model(x, keras.layers.Concatenate(name="fusion")([x, x]), name="one")


def of_images() -> keras.Model:
    x = keras.Input((4, 4, 1), name="x")
    return keras.Model(x, keras.layers.Concatenate(name="fusion")([x, x]))


def of_two() -> keras.Model:
    x, b = keras.Input((3,), name="x"), keras.Input((2,), name="b", dtype="int32")
    joined = keras.layers.Concatenate(name="fusion")([x, keras.ops.cast(b, "float32")])
    return keras.Model([x, b], joined, name="two")


class Dataset(keras.utils.PyDataset):
    """Batches of 50 rows, the last of 30; with one worker, in one buffer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x = X.copy()
        self.buffer = np.empty((SIZE, 3), "float32")

    def __len__(self) -> int:
        return 5

    def __getitem__(self, number: int) -> Any:
        rows = slice(number * SIZE, min((number + 1) * SIZE, ROWS))
        count = rows.stop - rows.start
        buffer = self.buffer if self.workers == 1 else np.empty_like(self.buffer)
        buffer[:count] = self.x[rows]
        return buffer[:count], Y[rows]


def read(
    shared: SharedData, build: Any, start: int, stop: int | None
) -> dict[str, Any]:
    """Opens shared data and reads some of their batches."""
    model = build()
    feed = shared.open(model)
    batches = list(feed.batches(start, stop))
    return {
        "process": os.getpid(),
        "rows": feed.rows,
        "size": feed.size,
        "ids": None if feed.ids is None else np.asarray(feed.ids),
        "row": batches[0].row,
        "inputs": joined([batch.inputs for batch in batches]),
        "labels": joined([batch.labels for batch in batches]),
        "weights": joined([batch.sample_weight for batch in batches]),
    }


def joined(parts: list[Any]) -> Any:
    if parts[0] is None:
        return None
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def elsewhere(shared: SharedData, build: Any, start: int, stop: int | None) -> Any:
    """Does the same in a worker of Ray."""
    received = ray.get(ray.remote(read).remote(shared, build, start, stop))
    assert received["process"] != os.getpid()
    return received


def of_ray(pipe: Path | None = None) -> Any:
    """A data set of Ray in 7 blocks; with a pipe, the first waits for the last."""

    def changed(batch: dict[str, Any]) -> dict[str, Any]:
        number = batch["data"]
        if pipe is not None and number[0] == 0:
            assert pipe.read_text() == "the last is done"
        if pipe is not None and number[-1] == ROWS - 1:
            pipe.write_text("the last is done")
        return {
            "x": X[number],
            "b": B[number],
            "labels": Y[number],
            "sample_weight": WEIGHTS[number],
            "ids": np.array([f"row {i}" for i in number]),
        }

    rows = ray.data.from_numpy(np.array_split(np.arange(ROWS), 7))
    return rows.map_batches(changed, batch_size=None)


TEXTS = np.array([f"row {i}" for i in range(ROWS)])
FORMS: dict[str, tuple[Any, Any, Any, Any, Any, Any, Any]] = {
    "an array": (lambda: X, of_one, X, None, None, None, Y),
    "x, y, weights": (lambda: (X, Y, WEIGHTS), of_one, X, Y, WEIGHTS, None, TEXTS),
    "labels by name": (lambda: (X, {"a": Y}), of_one, X, {"a": Y}, None, None, None),
    "no labels": (lambda: (X, None, WEIGHTS), of_one, X, None, WEIGHTS, None, None),
    "a list": (lambda: [X, B], of_two, [X, B], None, None, None, None),
    "a tuple for two": (lambda: (X, B), of_two, [X, B], None, None, None, None),
    "a dictionary": (
        lambda: ({"b": B, "x": X, "more": Y}, Y), of_two, [X, B], Y, None, None, None,
    ),
    "pandas": (
        lambda: (pd.DataFrame(X), pd.Series(Y)), of_one, X, Y, None, None, None,
    ),
    "tensors": (
        lambda: [torch.tensor(X), tf.constant(B)], of_two, [X, B], None, None, None, Y,
    ),
    "backend's tensor": (
        lambda: keras.ops.convert_to_tensor(X), of_one, X, None, None, None, None,
    ),
    "PyDataset": (Dataset, of_one, X, Y, None, None, Y),
    "PyDataset of 3 workers": (
        lambda: Dataset(workers=3), of_one, X, Y, None, None, None,
    ),
    "ray.data": (of_ray, of_two, [X, B], Y, WEIGHTS, TEXTS, None),
    "ray.data and ids": (of_ray, of_two, [X, B], Y, WEIGHTS, None, -Y),
    "ray.data, one column": (
        lambda: ray.data.from_numpy(X), of_one, X, None, None, None, None,
    ),
}  # fmt: skip


def assert_rows(received: Any, start: int, size: int, name: str) -> None:
    _, _, inputs, labels, weights, ids_of_data, ids = FORMS[name]
    first = start // size * size
    assert (received["rows"], received["size"], received["row"]) == (ROWS, size, first)
    end = first + len(keras.tree.flatten(received["inputs"])[0])
    for what, expected in (
        ("inputs", inputs), ("labels", labels), ("weights", weights),
    ):  # fmt: skip
        if expected is None:
            assert received[what] is None
            continue
        keras.tree.map_structure(
            lambda one, other: np.testing.assert_array_equal(one, other[first:end]),
            received[what],
            expected,
        )
    ids = ids_of_data if ids is None else ids
    if ids is None:
        assert received["ids"] is None
    else:
        np.testing.assert_array_equal(received["ids"], ids)


@pytest.mark.parametrize("name", FORMS)
def test_each_worker_reads_the_same_rows_from_anywhere(name):
    build, model, *_, ids = FORMS[name]
    shared = share(build(), ids)
    size = SIZE if name.startswith("PyDataset") else 32
    for place, start, stop in (
        (read, 0, None),
        (elsewhere, 0, None),
        (elsewhere, 70, 110),
        (elsewhere, 229, 230),
    ):
        received = place(shared, model, start, stop)
        assert_rows(received, start, size, name)
        rows = len(keras.tree.flatten(received["inputs"])[0])
        last = ROWS if stop is None else min(-(-stop // size) * size, ROWS)
        assert received["row"] + rows == last


def test_arrays_without_rows():
    received = put_array(X[:0])
    assert (len(received), received[:].shape, received[:].dtype) == (0, (0, 3), X.dtype)
    with pytest.raises(DataError, match=r"empty.*at least one row"):
        read(share(X[:0]), of_one, 0, None)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A module in the driver's working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    np.save("x.npy", X)
    np.savez("x.npz", x=X, labels=Y, ids=Y + 1000)
    (tmp_path / "sources.py").write_text(
        textwrap.dedent("""
            import keras
            import numpy as np

            def generator():
                yield np.zeros((4, 3), "float32")

            def of_ray():
                import ray
                return ray.data.range(3)

            class Dataset(keras.utils.PyDataset):
                def __len__(self):
                    return 2

                def __getitem__(self, number):
                    return np.full((4 - number, 3), number, "float32")
        """)
    )
    yield tmp_path
    sys.modules.pop("sources", None)


def test_each_worker_opens_a_path_wherever_it_works(source):
    for path in ("x.npy", source / "x.npy", "x.npz"):
        received = elsewhere(share(path), of_one, 100, 110)
        np.testing.assert_array_equal(received["inputs"], X[96:128])
    np.testing.assert_array_equal(received["ids"], Y + 1000)
    with_ids = elsewhere(share("x.npz", Y), of_one, 100, 110)
    np.testing.assert_array_equal(with_ids["ids"], Y)


def test_zarr_and_parquet_that_ray_wrote(source):
    zarr.create_array(source / "x.zarr", data=X, chunks=(20, 3))
    table = ray.data.from_numpy(X).map_batches(
        lambda batch: {"x": batch["data"], "ids": batch["data"][:, 0] > 0}
    )
    table.write_parquet(str(source / "table"))
    for path in ("x.zarr", "table"):
        received = elsewhere(share(path), of_one, 100, 110)
        assert (received["rows"], received["row"]) == (ROWS, 96)
        np.testing.assert_array_equal(received["inputs"], X[96:128])
    np.testing.assert_array_equal(received["ids"], X[:, 0] > 0)


def test_lists_that_ray_reads_from_parquet(tmp_path):
    pq.write_table(pa.table({"x": X.tolist(), "labels": Y}), tmp_path / "x.parquet")
    received = elsewhere(share(ray.data.read_parquet(str(tmp_path))), of_one, 100, 110)
    np.testing.assert_array_equal(received["inputs"], X[96:128])
    np.testing.assert_array_equal(received["labels"], Y[96:128])


def test_a_local_save_of_a_data_set_of_ray_is_refused():
    with pytest.raises(DataTypeError, match=r"layertap\.distributed\.save.*iter_batch"):
        Feed(of_ray())


def test_labels_and_ids_are_columns(source):
    columns = {"x": X, "kind": pd.Series(Y), "name": Y + 7, "more": Y}
    np.savez("named.npz", **columns)
    for data in (columns, "named.npz"):
        received = elsewhere(share(data, "name", "kind"), of_one, 100, 110)
        np.testing.assert_array_equal(received["inputs"], X[96:128])
        np.testing.assert_array_equal(received["labels"], Y[96:128])
        np.testing.assert_array_equal(received["ids"], Y + 7)


def test_a_callable_may_return_a_dataset(source):
    received = read(share("sources:Dataset"), of_one, 5, None)
    assert (received["rows"], received["size"], received["row"]) == (7, 4, 4)
    np.testing.assert_array_equal(received["inputs"], np.ones((3, 3)))


@pytest.mark.parametrize(
    ("source_name", "words"),
    [
        ("sources:generator", r"generator gives its batches one after.*layertap\.save"),
        ("sources:of_ray", r"sources:of_ray returned a ray\.data\.Dataset.*Pass the"),
        ("gone.npy", r"gone\.npy is not supported as data"),
    ],
)
def test_sources_that_are_refused_when_they_are_opened(source, source_name, words):
    with pytest.raises(DataError, match=words):
        share(source_name).open(of_one())


class Endless(Dataset):
    num_batches = None


class Locked(Dataset):
    def __getstate__(self) -> Any:
        raise OSError("a socket")


def ragged() -> Any:
    first = ray.data.from_items([{"x": np.zeros(3)}])
    return first.union(ray.data.from_items([{"x": np.zeros(4)}]))


def test_a_column_that_changes_its_form_is_refused_if_it_is_used():
    shared = share(ragged())
    with pytest.raises(DataError, match=r"'x' of .*\(3,\).*\(4,\) in row 1.*drop_col"):
        shared.open(of_one()).first()


def no_rows() -> Any:
    return ray.data.range(3).map_batches(lambda batch: {"id": batch["id"][:0]})


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: iter([X]), DataTypeError, r"list_iterator gives .*`layertap\.save`"),
        (lambda: (x for x in [X]), DataTypeError, r"generator.*one after the other"),
        (
            lambda: tf.data.Dataset.from_tensors(X),
            DataTypeError,
            r"Dataset gives .*`layertap\.save`",
        ),
        (
            lambda: torch.utils.data.DataLoader(X),
            DataTypeError,
            r"DataLoader gives .*`layertap\.save`",
        ),
        (Endless, DataError, "Endless has no end: its num_batches is None"),
        (Locked, DataTypeError, "Locked can't be sent to workers: a socket.*callable"),
        (lambda: 3, DataTypeError, "Received int"),
        (lambda: [X, "b"], DataTypeError, "Received str"),
        (lambda: np.float32(3), DataError, "scalar"),
        (no_rows, DataError, r"ray\.data\.Dataset is empty"),
    ],
)
def test_data_that_cannot_be_shared(build, error, words):
    with pytest.raises(error, match=words):
        share(build())


def test_ids_are_one_for_each_row():
    with pytest.raises(DataError, match=r"`ids` does not have one .* shape \(230, 2\)"):
        share(X, B)


def test_unpickling_shared_data_does_not_import_keras():
    shared = share((X, {"a": Y}), TEXTS)
    pickled = ray.cloudpickle.dumps(shared)

    @ray.remote(runtime_env={"env_vars": {"A_WORKER_OF_ITS_OWN": "1"}})
    def loaded(pickled: Any) -> tuple[Any, set[str]]:
        received = pickle.loads(pickled)
        return type(received).__name__, set(sys.modules) & {"keras", "jax"}

    assert ray.get(loaded.remote(pickled)) == ("SharedData", set())
    assert shared.ids is not None


def test_the_order_of_a_data_set_of_ray_and_its_settings_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    dataset = of_ray(tmp_path / "pipe")
    dataset.context.execution_options.preserve_order = False
    received = share(dataset).open(of_two())
    np.testing.assert_array_equal(np.asarray(received.ids), TEXTS)
    assert not dataset.context.execution_options.preserve_order


def test_an_open_folder_of_images(tmp_path):
    from PIL import Image

    for number in range(5):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    images = ImageFolder(tmp_path, (4, 4), 1)
    feed = pickle.loads(pickle.dumps(share(images))).open(of_images(), 2)
    received = [batch.inputs.max() for batch in feed.batches()]
    assert received == [1, 3, 4]
    assert feed.ids.tolist() == [f"{number}.png" for number in range(5)]
