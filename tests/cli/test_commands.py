"""The command line: its commands, their output, and errors for bad input."""

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner, Result
from PIL import Image

import layertap
from layertap.cli import main

pytestmark = pytest.mark.one_backend

PROCESS = [sys.executable, "-c", "from layertap.cli import run; run()"]

PARTS = """
    import keras

    @keras.saving.register_keras_serializable("parts")
    class Fork(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.left = keras.layers.Dense(3, name="left")
            self.right = keras.layers.Dense(5, name="right")

        def build(self, shape):
            self.left.build(shape)
            self.right.build(shape)

        def call(self, x):
            return keras.ops.concatenate([self.left(x), self.right(x)], axis=-1)

    @keras.saving.register_keras_serializable("parts")
    class Subclassed(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.fork = Fork(name="fork")

        def call(self, x):
            return self.fork(x)
"""

SOURCES = """
    import os
    import signal

    import numpy as np

    constant = 3

    def array():
        return np.load("x.npy")

    def sequences():
        for length in (2, 5, 3):
            yield np.ones((4, length, 8), "float32")

    class Again:
        def __iter__(self):
            return sequences()

    def raises():
        raise RuntimeError("the data base\\nis away")

    def raises_later():
        yield np.zeros((4, 8), "float32")
        raise RuntimeError("the line went dead")

    def number():
        return 3

    def empty():
        return iter(())

    def interrupted():
        \"\"\"The first time, tells a pipe that rows came, and waits for Ctrl-C.\"\"\"
        for i in range(10):
            if i == 6 and os.path.exists("pipe"):
                with open("pipe", "w") as pipe:
                    pipe.write("rows came")
                signal.pause()
            yield np.full((4, 8), i, "float32")
"""


def two_branches() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = keras.Input((8,), name="x")
    left = keras.layers.Dense(4, name="left")(x)
    right = keras.layers.Dense(6, name="right")(x)
    joined = keras.layers.Concatenate(name="fusion")([left, right])
    return keras.Model(x, keras.layers.Dense(1, name="head")(joined), name="two")


def pair() -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    joined = keras.layers.Concatenate(name="fusion")([a, b])
    return keras.Model([a, b], joined, name="pair")


def of_images() -> keras.Model:
    image = keras.Input((4, 6, 3), name="image")
    flat = keras.layers.Flatten(name="flat")(image)
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(image)
    joined = keras.layers.Concatenate(name="fusion")([flat, mean])
    return keras.Model(image, joined, name="of_images")


def with_lambda() -> keras.Model:
    x = keras.Input((8,), name="x")
    twice = keras.layers.Lambda(lambda t: t * 2, output_shape=(8,), name="twice")(x)
    joined = keras.layers.Concatenate(name="fusion")([twice, x])
    return keras.Model(x, joined, name="with_lambda")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of models and data, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    models(folder)
    numbers(folder)
    (folder / "text.txt").write_text("hello")
    (folder / "no_images").mkdir()
    (folder / "bad_image").mkdir()
    (folder / "bad_image" / "a.png").write_text("no picture")
    for number, name in enumerate(("cats/b.png", "cats/a.png", "dogs/c.png")):
        picture = Image.new("RGB", (12, 8), (number, 10, 200))
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / "images" / name)
    (folder / "sources.py").write_text(textwrap.dedent(SOURCES))
    (folder / "broken.py").write_text("import no_such_module")
    return folder


def models(folder: Path) -> None:
    two_branches().save(folder / "two.keras")
    whole = (folder / "two.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "text.keras").write_text("hello")
    shutil.copy(folder / "two.keras", folder / "two.bin")
    two_branches().save_weights(folder / "no_model.weights.h5")
    pair().save(folder / "pair.keras")
    of_images().save(folder / "of_images.keras")
    with_lambda().save(folder / "lambda.keras")
    x = keras.Input((None, 8), name="x")
    joined = keras.layers.Concatenate(name="fusion")([keras.layers.ReLU()(x), x])
    keras.Model(x, joined, name="open").save(folder / "open.keras")
    x = keras.Input((8,), name="x")
    keras.Model(x, keras.layers.Dense(1)(x), name="line").save(folder / "line.keras")
    (folder / "parts.py").write_text(textwrap.dedent(PARTS))
    sys.path.insert(0, str(folder))
    import parts

    sys.path.remove(str(folder))
    keras.Model(x, parts.Fork(name="fork")(x)).save(folder / "custom.keras")
    subclassed = parts.Subclassed(name="subclassed")
    subclassed(np.zeros((2, 8), "float32"))
    subclassed.save(folder / "subclassed.keras")
    forget_parts()


def forget_parts() -> None:
    """Removes the custom objects, as in a new process."""
    sys.modules.pop("parts", None)
    for name in ("parts>Fork", "parts>Subclassed"):
        keras.saving.get_custom_objects().pop(name, None)


def numbers(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    np.save(folder / "x.npy", x)
    np.save(folder / "other.npy", x + 1)
    np.save(folder / "narrow.npy", x[:, :7])
    np.save(folder / "words.npy", x.astype(str))
    np.save(folder / "none.npy", x[:0])
    np.save(folder / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "x.npz", x=x, labels=np.arange(50), ids=np.arange(50) + 100)
    np.savez(folder / "misnamed.npz", y=x)
    np.savez(folder / "misspelt.npz", a=x[:, :4], bb=x[:, :4])
    np.savez(folder / "missing.npz", a=x[:, :4])
    np.savez(folder / "only_labels.npz", labels=np.arange(50))
    tables(folder, x)
    for name in ("x.npy", "x.npz", "x.parquet"):
        whole = (folder / name).read_bytes()
        (folder / f"cut.{name}").write_bytes(whole[: len(whole) // 2])


def tables(folder: Path, x: np.ndarray) -> None:
    """The same rows in Zarr and in Parquet."""
    zarr.create_array(folder / "x_array.zarr", data=x, chunks=(16, 8))
    columns = {"x": x, "labels": np.arange(50), "ids": np.arange(50) + 100}
    for name, version in (("x.zarr", 3), ("x2.zarr", 2)):
        group = zarr.open_group(folder / name, mode="w", zarr_format=version)
        for key, array in columns.items():
            group.create_array(key, data=array)
    zarr.open_group(folder / "empty.zarr", mode="w")
    texts = [str(i) for i in columns["ids"]]
    table = pa.table(columns | {"x": x.tolist(), "ids": texts, "notes": [None] * 50})
    pq.write_table(table, folder / "x.parquet", row_group_size=20)
    (folder / "parts").mkdir()
    for number, start in enumerate((0, 30)):
        part = table[start : 30 if start == 0 else 50]
        pq.write_table(part, folder / "parts" / f"{number}.parquet")
    pq.write_table(table.drop_columns("x"), folder / "no_x.parquet")


@pytest.fixture
def here(files, monkeypatch) -> Path:
    """The folder of `files`, to work in."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    forget_parts()
    return files


def typed(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def succeeds(*words: object) -> str:
    """Returns the output of a command that succeeds without messages."""
    result = typed(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def fails(status: int, *words: object) -> str:
    """Returns the line of the error of a command that fails."""
    result = typed(*words)
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr


def test_a_plan_as_a_table_and_as_json(here):
    table = succeeds("plan", "two.keras", "--rows", 50)
    for words in ("fusion", "concatenate, axis 1", "fusion/in/1", "right", "(rows, 6)"):
        assert words in table
    assert "2.0 kB for 50 rows" in table
    plan = json.loads(succeeds("plan", "two.keras", "--json", "--outputs", "head"))
    assert [output["address"] for output in plan["outputs"]] == ["head/out"]
    assert plan["joins"] == []
    assert plan["bytes_per_row"] == 4


def test_kinds_of_join_are_selected_by_name(here):
    plan = json.loads(succeeds("plan", "two.keras", "--json", "--joins", "*"))
    assert [join["path"] for join in plan["joins"]] == ["fusion"]
    assert {join["kind"] for join in plan["ignored"]} == {"add", "dot"}
    assert "concatenate" in fails(2, "plan", "two.keras", "--joins", "concat")


def test_a_table_fits_a_terminal_of_80_columns(here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    table = succeeds("plan", "two.keras")
    assert max(map(len, table.splitlines())) <= 80
    assert any("fusion/in/0" in row and "left" in row for row in table.splitlines())


@pytest.mark.every_backend
def test_save_show_verify(here, tmp_path):
    store = tmp_path / "v.zarr"
    output = succeeds("save", "two.keras", "x.npz", "-o", store)
    assert "50 rows, with labels and ids" in output
    assert "complete." in output
    assert "fusion/in/0" in succeeds("show", store)
    shown = json.loads(succeeds("show", store, "--json"))
    assert (shown["rows"], shown["complete"]) == (50, True)
    saved = layertap.open(store)
    x = np.load("x.npz")["x"]
    expected = layertap.capture(keras.models.load_model("two.keras"), x)
    assert saved["fusion/in/1"][:].tobytes() == expected["fusion/in/1"].tobytes()
    assert saved.labels[:].tolist() == list(range(50))
    assert saved.ids.tolist() == list(range(100, 150))
    assert "0 of them found something wrong" in succeeds("verify", store)
    report = succeeds(
        "verify", store, "--model", "two.keras", "--data", "x.npz", "--json"
    )
    assert json.loads(report)["ok"]


def test_options_of_a_save(here, tmp_path):
    store = tmp_path / "v.zarr"
    words = ("save", "two.keras", "x.npy", "-o", store, "--quiet")
    succeeds(*words, "--outputs", "left", "--compression", "zstd", "--batch-size", 7)
    assert list(layertap.open(store)) == ["left/out"]
    message = fails(2, *words)
    assert "another run" in message
    assert "--overwrite" in message
    succeeds(*words, "--overwrite")
    assert list(layertap.open(store)) == ["fusion/in/0", "fusion/in/1"]


def test_less_to_store(here, tmp_path):
    store = tmp_path / "v.zarr"
    less = ("--dtype", "float16", "--reduce", "max")
    plan = json.loads(succeeds("plan", "two.keras", "--json", *less))
    assert plan["bytes_per_row"] == 2 * 2
    assert "float16" in succeeds("plan", "two.keras", *less)
    words = ("save", "two.keras", "x.npy", "-o", store, "--quiet", "--dtype", "float16")
    assert "infinite" not in succeeds(*words, "--reduce", "max")
    saved = layertap.open(store)
    model, x = keras.models.load_model("two.keras"), np.load("x.npy")
    left = layertap.capture(model, x)["fusion/in/0"]
    expected = left.max(axis=1).astype("float16")
    np.testing.assert_array_equal(saved["fusion/in/0"][:], expected)
    succeeds("verify", store, "--model", "two.keras", "--data", "x.npy")
    assert "dtype: the store has float16" in fails(2, *words[:-2])
    assert "reduce: the store has max" in fails(2, *words)
    x[:3] *= 1e9
    np.save(tmp_path / "large.npy", x)
    message = succeeds(
        words[0], words[1], tmp_path / "large.npy", *words[3:], "--overwrite"
    )
    counts = layertap.open(store).overflowed
    assert set(counts) == {"fusion/in/0", "fusion/in/1"}
    assert counts["fusion/in/0"] == np.count_nonzero(np.abs(1e9 * left[:3]) >= 65520)
    for address, count in counts.items():
        line = f"{address}: {count} numbers too large for float16 became infinite."
        assert line in message
        assert line in succeeds("show", store)
    assert json.loads(succeeds("show", store, "--json"))["overflowed"] == counts
    assert "median" in fails(2, *words, "--reduce", "median")


def test_batches_of_different_sizes(here, tmp_path):
    store = tmp_path / "v.zarr"
    words = ("save", "open.keras", "sources:sequences", "-o", store, "--overwrite")
    message = fails(2, *words)
    assert "--pad longest" in message
    assert "--pad 512" in message
    assert "--pad 512" in fails(2, *words, "--pad", "longest")
    assert "Expected at most (4, 4, 8)" in fails(2, *words, "--pad", 4)
    for data, pad in (("sources:sequences", 5), ("sources:Again", "longest")):
        succeeds(*words[:2], data, *words[3:], "--pad", pad)
        saved = layertap.open(store)
        assert saved["fusion/in/0"].shape == (12, 5, 8)
        assert saved.lengths("fusion/in/0").tolist() == [2] * 4 + [5] * 4 + [3] * 4
        assert saved["fusion/in/1"][:].sum(axis=(1, 2)).tolist() == [
            8 * length for length in saved.lengths("fusion/in/1")
        ]
    succeeds("verify", store, "--model", "open.keras", "--data", "sources:Again")
    assert "longer" in fails(2, *words, "--pad", "longer")


def test_verify_finds_other_data_and_other_bytes(here, tmp_path):
    store = tmp_path / "v.zarr"
    succeeds("save", "two.keras", "x.npy", "-o", store)
    result = typed("verify", store, "--model", "two.keras", "--data", "other.npy")
    assert result.exit_code == 1
    assert "different" in result.stdout
    (shard,) = (store / "fusion" / "in" / "0").glob("c.*")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    result = typed("verify", store)
    assert result.exit_code == 1
    assert "damaged, 1 file" in result.stdout
    assert "rows 0 to 49 of fusion/in/0" in " ".join(result.stdout.split())
    fails(1, "verify", store, "--model", "two.keras", "--data", "x.npy")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_legacy_h5(here, tmp_path):
    whole, cut = tmp_path / "two.h5", tmp_path / "cut.h5"
    two_branches().save(whole)
    assert succeeds("plan", whole) == succeeds("plan", "two.keras")
    succeeds("save", whole, "x.npy", "-o", tmp_path / "v.zarr")
    cut.write_bytes(whole.read_bytes()[:2000])
    assert "cut.h5" in fails(2, "plan", cut)


def test_custom_objects_need_import(here):
    message = fails(2, "plan", "custom.keras")
    assert "Fork" in message
    assert "--import" in message
    assert "right" in succeeds("plan", "custom.keras", "--import", "parts")


def test_a_subclassed_model_has_the_shapes_that_it_was_built_with(here, tmp_path):
    words = ("--import", "parts")
    assert "(rows, 3)" in succeeds("plan", "subclassed.keras", *words)
    store = tmp_path / "v.zarr"
    succeeds("save", "subclassed.keras", "x.npy", "-o", store, *words)
    shapes = [array.shape for array in layertap.open(store).values()]
    assert shapes == [(50, 3), (50, 5)]


def test_code_in_a_model_needs_trust(here):
    assert "--trust-model" in fails(2, "plan", "lambda.keras")
    trusted = typed("plan", "lambda.keras", "--trust-model")
    assert (trusted.exit_code, "twice" in trusted.stdout) == (0, True)
    assert trusted.stderr == (
        "Keras' safe mode is off: code that lambda.keras holds may run.\n"
    )


def test_sample_weights_of_an_archive_are_saved_along(here, tmp_path):
    along = {"sample_weight": np.arange(50) / 8, "labels": np.arange(50)}
    archive, store = tmp_path / "w.npz", tmp_path / "w.zarr"
    np.savez(archive, x=np.load("x.npy"), ids=np.arange(50), **along)
    output = succeeds("save", "two.keras", archive, "-o", store)
    assert "50 rows, with labels, sample weights and ids, " in output
    np.testing.assert_array_equal(
        layertap.open(store).sample_weight[:], along["sample_weight"]
    )


@pytest.mark.parametrize(
    "data", ["x_array.zarr", "x.zarr", "x2.zarr", "x.parquet", "parts"]
)
def test_zarr_and_parquet_are_saved_as_the_same_rows_of_numpy(here, tmp_path, data):
    store = tmp_path / "v.zarr"
    succeeds("save", "two.keras", data, "-o", store)
    saved = layertap.open(store)
    expected = layertap.capture(keras.models.load_model("two.keras"), np.load("x.npy"))
    for address in saved:
        np.testing.assert_array_equal(saved[address][:], expected[address])
    succeeds("verify", store, "--model", "two.keras", "--data", data, "--rows", 0)
    if data == "x_array.zarr":
        assert saved.labels is None
        return
    assert saved.labels[:].tolist() == list(range(50))
    ids = saved.ids.tolist()
    assert list(map(int, ids)) == list(range(100, 150))
    assert isinstance(ids[0], str if data in ("x.parquet", "parts") else int)


def test_a_store_is_not_data_but_its_arrays_are(here, tmp_path):
    store, again = tmp_path / "v.zarr", tmp_path / "again.zarr"
    succeeds("save", "of_images.keras", "images", "-o", store)
    line = fails(2, "save", "two.keras", store, "-o", again)
    assert "v.zarr is a store of layertap" in line
    line = fails(2, "save", "two.keras", store / "fusion" / "in" / "1", "-o", again)
    assert "Expected (rows, 8). Received (3, 3)" in line


def test_a_folder_of_images_brings_labels_and_ids(here, tmp_path):
    store = tmp_path / "v.zarr"
    succeeds("save", "of_images.keras", "images", "-o", store)
    saved = layertap.open(store)
    assert saved.ids.tolist() == ["cats/a.png", "cats/b.png", "dogs/c.png"]
    assert saved.labels[:].tolist() == [0, 0, 1]
    assert saved["fusion/in/1"][:].tolist() == [
        [1, 10, 200],
        [0, 10, 200],
        [2, 10, 200],
    ]


def test_a_callable_returns_data_for_save(here, tmp_path):
    store = tmp_path / "v.zarr"
    succeeds("save", "two.keras", "sources:array", "-o", store)
    succeeds("verify", store, "--model", "two.keras", "--data", "x.npy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gone.keras", ["gone.keras does not exist", ".h5"]),
        ("images", ["images is a folder"]),
        ("cut.keras", ["cut.keras is cut off"]),
        ("text.keras", ["text.keras is cut off, or is not a model"]),
        ("two.bin", ["ends in .keras, .h5"]),
        ("no_model.weights.h5", ["No model config found"]),
        ("line.keras", ["'line' concatenates nothing", "--outputs"]),
        ("two.keras --before fuson", ["'fuson'", "Did you mean 'fusion'"]),
        ("two.keras --outputs lft", ["'lft'", "Did you mean 'left'"]),
        ("two.keras --import no_such_module", ["--import", "no_such_module"]),
        ("two.keras --import broken", ["broken", "No module named 'no_such_module'"]),
        ("two.keras --rows many", ["--rows", "many", "layertap plan --help"]),
        ("", ["MODEL", "layertap plan --help"]),
    ],
)
def test_models_that_cannot_be_planned(here, words, message):
    line = fails(2, "plan", *words.split())
    for part in message:
        assert part in line


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            "two",
            "gone.npy",
            ["gone.npy is not supported", "package.module:callable"],
        ),
        ("two", "text.txt", ["text.txt is not supported as data"]),
        ("two", "narrow.npy", ["'x'", "(rows, 8)", ", 7)"]),
        ("two", "words.npy", ["'x'", "<U", "float32"]),
        ("two", "none.npy", ["empty"]),
        ("two", "pickled.npy", ["pickled.npy", "Python objects"]),
        ("two", "cut.x.npy", ["cut.x.npy is not a readable .npy file"]),
        ("two", "cut.x.npz", ["cut.x.npz is not a readable .npz file"]),
        ("two", "cut.x.parquet", ["cut.x.parquet is not a readable Parquet file"]),
        ("two", "no_x.parquet", ["'x'", "notes"]),
        ("two", "empty.zarr", ["empty.zarr holds no input for 'two'"]),
        ("pair", "x.zarr", ["'a'", "'x'"]),
        ("pair", "x_array.zarr", ["2 inputs (a, b)"]),
        ("two", "misnamed.npz", ["'x'", "'y'"]),
        ("two", "only_labels.npz", ["only_labels.npz holds no input for 'two'"]),
        ("pair", "misspelt.npz", ["'b'", "Did you mean 'bb'"]),
        ("pair", "missing.npz", ["'b'", "'a'"]),
        ("pair", "x.npy", ["2 inputs (a, b)"]),
        ("two", "images", ["folder of images", "(None, 8)"]),
        ("of_images", "no_images", ["no_images has no images", ".png"]),
        ("of_images", "bad_image", ["bad_image/a.png is not a readable image"]),
        ("two", "no_such_module:f", ["no_such_module can't be imported"]),
        ("two", "sources:", ["sources: is not supported as data"]),
        ("two", "sources:absent", ["sources has no callable 'absent'"]),
        ("two", "sources:constant", ["sources has no callable 'constant'"]),
        ("two", "sources:raises", ["RuntimeError: the data base is away"]),
        ("two", "sources:raises_later", ["RuntimeError: the line went dead"]),
        ("two", "sources:number", ["Received int"]),
        ("two", "sources:empty", ["empty"]),
    ],
)
def test_data_that_cannot_be_saved(here, tmp_path, model, data, message):
    line = fails(2, "save", f"{model}.keras", data, "-o", tmp_path / "v.zarr")
    for part in message:
        assert part in line


@pytest.mark.parametrize("command", ["show", "verify"])
def test_paths_without_a_store(here, tmp_path, command):
    assert "nothing" in fails(2, command, tmp_path / "gone.zarr")
    assert "it is a file" in fails(2, command, "text.txt")
    assert "no zarr.json" in fails(2, command, "images")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_store_of_a_newer_format(here, tmp_path, command):
    store = tmp_path / "v.zarr"
    succeeds("save", "two.keras", "x.npy", "-o", store)
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["layertap"]["format"] = 99
    (store / "zarr.json").write_text(json.dumps(root))
    line = fails(2, command, store)
    assert "format 99" in line
    assert "newer layertap" in line


def test_a_save_to_something_else_loses_nothing(here):
    for path in ("images", "text.txt"):
        fails(2, "save", "two.keras", "x.npy", "-o", path)
    assert Path("text.txt").read_text() == "hello"
    assert len(list(Path("images").rglob("*.png"))) == 3


def test_model_and_data_of_verify_go_together(here, tmp_path):
    line = fails(2, "verify", tmp_path, "--model", "two.keras")
    assert "--model and --data go together" in line


def test_verbose_adds_the_traceback_to_the_line(here):
    result = typed("plan", "gone.keras", "--verbose")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: gone.keras does not exist")


@pytest.mark.every_backend
def test_the_demo_and_the_commands_that_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = succeeds("demo", "a [red] folder")
    assert "1,797 rows, with labels" in message
    assert "0 of them found something wrong" in message
    words = [
        shlex.split(line.removeprefix("$ layertap "))
        for line in message.splitlines()
        if line.startswith("$ layertap ")
    ]
    commands = ["plan", "save", "show", "verify", "importance"]
    assert [command for command, *_ in words] == commands
    for again in words:
        assert succeeds(*again) in message
    saved = layertap.open("a [red] folder/digits.zarr")
    assert saved.before("fusion")["look_3x3"].shape == (1797, 256)


@pytest.mark.every_backend
def test_a_process_that_succeeds_prints_nothing_else(here, tmp_path):
    words = ["save", "two.keras", "x.npy", "-o", str(tmp_path / "v.zarr")]
    done = subprocess.run([*PROCESS, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(tmp_path / "v.zarr"))


@pytest.mark.every_backend
def test_ctrl_c_in_mid_save_and_the_same_command_again(here, tmp_path):
    """On a terminal, so that the progress shows."""
    store = tmp_path / "v.zarr"
    words = ["save", "two.keras", "sources:interrupted", "-o", str(store)]
    os.mkfifo("pipe")
    terminal, standard_error = pty.openpty()
    with subprocess.Popen([*PROCESS, *words], stderr=standard_error) as process:
        os.close(standard_error)
        assert Path("pipe").read_text() == "rows came"
        process.send_signal(signal.SIGINT)
        shown = read_all(terminal)
    Path("pipe").unlink()
    assert process.returncode == 130
    assert "rows" in shown
    assert "Stopped. Committed rows stay." in shown.splitlines()[-1]
    assert "Traceback" not in shown
    assert layertap.open(store).rows == 24
    assert "24 rows" in succeeds("show", store)
    succeeds(*words)
    succeeds("save", "two.keras", "sources:interrupted", "-o", tmp_path / "whole.zarr")
    saved, whole = layertap.open(store), layertap.open(tmp_path / "whole.zarr")
    assert saved.rows == whole.rows == 40
    for address in whole:
        assert saved[address][:].tobytes() == whole[address][:].tobytes()


def read_all(terminal: int) -> str:
    """Returns the output to a terminal, until no process can write to it."""
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux' end of a terminal.
            part = b""
        if not part:
            os.close(terminal)
            return shown.decode()
        shown += part


@pytest.mark.parametrize(
    ("name", "message"), [("openvino", "pip install"), ("no_such_backend", "backend")]
)
def test_a_backend_that_is_not_there(here, name, message):
    """Keras knows OpenVINO; it is in none of layertap's environments."""
    done = subprocess.run(
        [*PROCESS, "plan", "two.keras"],
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert message in done.stderr


def test_help_imports_nothing_heavy():
    program = textwrap.dedent("""
        import sys

        from layertap.cli import run

        sys.argv[1:] = ["--help"]
        try:
            run()
        finally:
            heavy = {"keras", "numpy", "tensorflow", "jax", "torch", "tensorstore",
                     "pyarrow", "ray"}
            print("imported:", sorted(heavy & set(sys.modules)))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "Usage: layertap" in done.stdout
    assert "\n  layertap show out.zarr        " in done.stdout
    assert done.stdout.endswith("imported: []\n")


COMMANDS = ["plan", "save", "show", "verify", "importance", "diff", "demo"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command):
    message = succeeds(command, "--help")
    assert message.startswith(f"Usage: layertap {command}")
    assert max(map(len, message.splitlines())) <= 80
    assert ("package.module:callable" in message) == (command in ("save", "verify"))
