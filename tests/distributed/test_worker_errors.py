"""The driver raises a worker's error as it was; no worker is left."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pyarrow as pa
import pytest
import ray
from pyarrow import parquet

import layertap.distributed
from layertap.errors import (
    DataError,
    DataTypeError,
    ModelFileError,
    OptionError,
    OtherRunError,
    StoreError,
)
from tests.support import faulty_data as faulty
from tests.support.faults import small_disk
from tests.support.processes import environment
from tests.support.same_store import assert_same

pytestmark = pytest.mark.ray


def save(model, data, path, **options):
    options = faulty.OPTIONS | {"workers": 1} | options
    return layertap.distributed.save(model, data, path, **options)


def message(error):
    return " ".join([str(error.value), *getattr(error.value, "__notes__", ())])


def assert_no_worker_is_left(folder):
    mine = os.getpid()
    left = {process for process, _ in faulty.read_by(folder)} - {mine}
    assert left
    faulty.until(lambda: not any(map(faulty.alive, left)))
    have, total = ray.available_resources, ray.cluster_resources
    faulty.until(lambda: have().get("CPU") == total()["CPU"])


def test_an_error_of_the_data_in_a_worker_and_a_resume_in_the_same_session(
    model, data, local, tmp_path
):
    path = tmp_path / "v.zarr"
    faulty.instruct(data.folder, 13, "raise")
    with pytest.raises(faulty.BrokenDataError, match=r"^batch 13 is broken\n") as error:
        save(model, data, path)
    assert "The same call writes the others once this is fixed." in message(error)
    assert "rows 120 to 139" in message(error)
    assert_no_worker_is_left(data.folder)
    assert layertap.open(path).rows == 120
    # In a block that the first worker can't have begun before it stopped.
    faulty.instruct(data.folder, 27, "exit")
    with pytest.raises(SystemExit, match="3"):
        save(model, data, path)
    save(model, data, path)
    assert_same(path, local)


def hidden(tmp_path, monkeypatch, name, text):
    """Imports a module that workers can't import."""
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    return __import__(name)


def test_classes_and_data_that_a_worker_cannot_import(tmp_path, monkeypatch):
    module = hidden(
        tmp_path,
        monkeypatch,
        "only_here",
        """
        import keras
        import numpy as np

        @keras.saving.register_keras_serializable("only_here")
        class Mine(keras.layers.Layer):
            def call(self, x):
                return x * 2

        def rows():
            return np.zeros((20, 8), "float32")
        """,
    )
    x = keras.Input((8,), name="x")
    join = keras.layers.Concatenate(name="fusion")([module.Mine(name="mine")(x), x])
    model = keras.Model(x, join, name="mine")
    for number, data in enumerate((module.rows(), "only_here:rows")):
        with pytest.raises(Exception, match="only_here") as error:
            save(model, data, tmp_path / f"{number}.zarr", ids=None)
        assert "only_here" in message(error)


def test_data_that_differ_in_a_worker(model, tmp_path, monkeypatch):
    """Workers have the environment that Ray was started in."""
    monkeypatch.setenv("OF_THE_DRIVER", "1")
    source = "tests.support.faulty_data:fewer_in_workers"
    words = r"A worker on \S+ differs from .*rows: the driver has 300, the worker 299"
    with pytest.raises(OtherRunError, match=words):
        save(model, source, tmp_path / "v.zarr", ids=None)


def test_a_file_that_changes_while_workers_read_it(model, tmp_path):
    file, path = tmp_path / "x.npy", tmp_path / "v.zarr"
    np.save(file, faulty.inputs())
    options = {"ids": None, "batch_size": faulty.BATCH}

    def rewrite(rows, written):
        if rows:
            # The last row of each block.
            np.lib.format.open_memmap(file, mode="r+")[
                faulty.BLOCK - 1 :: faulty.BLOCK
            ] += 1

    with pytest.raises(DataError, match=r"x\.npy was changed while it was read"):
        save(model, file, path, **options, progress=rewrite)
    assert not layertap.open(path).complete
    with pytest.raises(OtherRunError, match=f"inputs of row {faulty.BLOCK - 1} are"):
        save(model, file, path, **options)


@pytest.mark.campaign(alone=True)
def test_files_that_came_since_and_change_when_a_save_goes_on(model, tmp_path):
    """New classes of the labels come last, also in workers."""
    x, folder = faulty.inputs(), tmp_path / "x"
    kinds = np.array(["z", "a"] * 60 + ["m", "z"] * 90)

    def write(rows, other=0):
        lists = pa.FixedSizeListArray.from_arrays((x[rows] + other).reshape(-1), 8)
        table = pa.table({"x": lists, "kind": kinds[rows]})
        folder.mkdir(exist_ok=True)
        parquet.write_table(table, folder / f"{rows.start:03}.parquet")

    def call(**options):
        options |= {"ids": None, "labels": "kind", "batch_size": faulty.BATCH}
        return save(model, folder, tmp_path / "v.zarr", **options)

    def stops(rows, written):
        if rows > 200:
            raise StopIteration

    write(slice(0, 120))
    call()
    write(slice(120, 300))
    with pytest.raises(StopIteration):
        call(progress=stops)
    saved = layertap.open(tmp_path / "v.zarr")
    assert (saved.complete, saved.class_names) == (False, ["a", "z", "m"])
    other = np.zeros((180, 1), "float32")
    other[faulty.BLOCK - 1] = 1
    write(slice(120, 300), other)
    with pytest.raises(OtherRunError, match="inputs of row 139 are"):
        call()
    write(slice(120, 300))
    saved = call()
    assert saved.complete
    labels = [saved.class_names[number] for number in saved.labels[:]]
    assert labels == kinds.tolist()


@pytest.mark.parametrize(
    ("data", "options", "error", "words"),
    [
        (iter([faulty.inputs()]), {}, DataTypeError, r"`layertap\.save`"),
        (faulty.inputs(), {"workers": 0}, OptionError, r"at least 1\. Received 0"),
        (faulty.inputs(), {"workers": 1.5}, OptionError, r"at least 1\. Received 1\.5"),
        (
            faulty.inputs(),
            {"num_gpus": 1},
            OptionError,
            "num_gpus=1 is more than this machine has",
        ),
    ],
)
def test_options_that_are_refused_before_a_store_exists(
    model, tmp_path, data, options, error, words
):
    path = tmp_path / "v.zarr"
    if options.get("num_gpus") and ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(error, match=words):
        save(model, data, path, **options)
    assert not path.exists()


def test_a_file_that_is_not_a_model(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"PK")
    with pytest.raises(ModelFileError, match="is cut off, or is not a model"):
        save(tmp_path / "m.keras", faulty.inputs(), tmp_path / "v.zarr")


def test_a_path_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "v.zarr"
    with pytest.raises(StoreError, match=r"file"):
        save(model, faulty.inputs(), path)


@pytest.mark.campaign(alone=True)
def test_a_disk_that_is_full_for_a_while(model, data, local, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path = disk.path / "v.zarr"
        faulty.instruct(data.folder, 13, "wait")
        with ThreadPoolExecutor(1) as other:
            saving = other.submit(save, model, data, path)
            faulty.until((data.folder / "waiting-13").exists)
            with disk.filled():
                (data.folder / "waiting-13").unlink()
                error = saving.exception()
        assert type(error) is StoreError
        assert "No space left on device" in str(error)
        assert "Free some space" in str(error)
        assert "rows 120 to 139, in a worker" in " ".join(error.__notes__)
        save(model, data, path)
        assert_same(path, local)


@pytest.mark.campaign(alone=True)
def test_more_workers_than_the_cluster_has_cpus_for(model, data, local, tmp_path):
    path = tmp_path / "v.zarr"
    save(model, data, path, workers=3, num_cpus=3)
    assert_same(path, local)


WITHOUT = """
import sys
sys.modules["ray"] = None
import layertap, layertap.distributed, numpy as np, keras
x = keras.Input((2,))
model = keras.Model(x, keras.layers.Concatenate()([x, x]))
try:
    layertap.distributed.save(model, np.zeros((3, 2)), sys.argv[1])
except ImportError as error:
    print(error)
"""
LAZY = """
import sys
import layertap
from layertap.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted({"ray", "keras", "tensorstore"} & set(sys.modules)))
"""


def output_of(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_ray_the_error_says_how_to_install_it(tmp_path):
    assert 'pip install "layertap[ray]"' in output_of(WITHOUT, tmp_path / "v.zarr")
    assert not (tmp_path / "v.zarr").exists()


def test_ray_is_imported_only_when_needed():
    assert output_of(LAZY).splitlines()[-1] == "[]"


def test_other_weights_are_another_run(model, data, tmp_path):
    path = tmp_path / "v.zarr"
    faulty.instruct(data.folder, 13, "raise")
    with pytest.raises(faulty.BrokenDataError):
        save(model, data, path)
    keras.utils.set_random_seed(9)
    other = keras.models.clone_model(model)
    other.get_layer("d1").set_weights(
        [w + 1 for w in model.get_layer("d1").get_weights()]
    )
    with pytest.raises(OtherRunError, match="weights"):
        save(other, data, path)
    assert np.array_equal(layertap.open(path).labels[:], np.arange(120))
