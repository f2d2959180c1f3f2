"""Models and data in files, good and bad, and commands that use them."""

import shutil
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from click.testing import CliRunner, Result
from PIL import Image

from layertap.cli import main

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

    def first(outputs):
        return outputs[:, 0]

    def largest(x):
        import keras

        return keras.ops.max(x, axis=1)

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


def make_files(folder: Path) -> None:
    """Fills a folder with models and data, good and bad."""
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


def models(folder: Path) -> None:
    two_branches().save(folder / "two.keras")
    trained = two_branches()
    trained.compile(loss="mse")
    trained.save(folder / "compiled.keras")
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
