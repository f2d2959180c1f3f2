"""A distributed save writes the same arrays as one process."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image

import layertap.distributed
from layertap.cli import main
from layertap.distributed import ray_session
from layertap.errors import OtherRunError
from tests.support import faulty_data as faulty
from tests.support.campaign import share
from tests.support.same_store import assert_same

pytestmark = pytest.mark.ray

ROWS = 230
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32") * 1e4
B = np.arange(ROWS * 2, dtype="int32").reshape(ROWS, 2)
WEIGHTS = np.linspace(0, 1, ROWS, dtype="float32")
LABELS = {"a": np.arange(ROWS), "b": X[:, 0] > 0}
MAPS = np.random.default_rng(1).normal(size=(ROWS, 6, 6, 2)).astype("float32")
TEXTS = [f"row {n}" if n % 7 else "ä" for n in range(ROWS)]


def of_two():
    keras.utils.set_random_seed(4)
    x, b = keras.Input((3,), name="x"), keras.Input((2,), name="b", dtype="int32")
    branch = keras.layers.Dense(5, name="branch")(x)
    joined = keras.layers.Concatenate(name="fusion")(
        [branch, keras.ops.cast(b, "float32"), x * 100.0]
    )
    return keras.Model([x, b], keras.layers.Dense(1, name="head")(joined), name="two")


def of_maps():
    keras.utils.set_random_seed(6)
    x = keras.Input((6, 6, 2), name="x")
    parts = [keras.layers.Conv2D(n, 3, name=f"conv{n}")(x) for n in (2, 3)]
    joined = keras.layers.Concatenate(name="fusion")(parts)
    return keras.Model(x, keras.layers.Flatten(name="flat")(joined), name="maps")


def of_any_length():
    keras.utils.set_random_seed(5)
    x = keras.Input((None, 2), name="x")
    parts = [keras.layers.Conv1D(n, 1, name=f"conv{n}")(x) for n in (2, 3)]
    joined = keras.layers.Concatenate(name="fusion")(parts)
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(joined)
    return keras.Model(x, keras.layers.Dense(1, name="head")(pooled), name="lengths")


class Lengths(keras.utils.PyDataset):
    """Batches of 20 rows, each batch of its own length."""

    def __len__(self):
        return 12

    def __getitem__(self, number):
        rows = min(20, ROWS - 20 * number)
        shape = (rows, 3 + number % 5, 2)
        return np.random.default_rng(number).normal(size=shape).astype("float32")


# Model, data, options of both saves, options of the distributed save.
CASES = {
    "labels, weights, texts, float16, zstd, batches that divide no block": (
        of_two,
        lambda: ({"x": X, "b": B}, LABELS, WEIGHTS),
        {"ids": TEXTS, "dtype": "float16", "compression": "zstd", "batch_size": 7},
        # Blocks of 16 rows, by their memory.
        {"workers": 2, "memory": 3 * 16 * 60},
    ),
    "a list, numbers as ids, for_head": (
        of_two,
        lambda: [X, B],
        {"ids": np.arange(ROWS) * 3, "for_head": True},
        {"workers": 1},
    ),
    "lengths that differ, PyDataset": (
        of_any_length,
        Lengths,
        {"pad": 9},
        {"workers": 1},
    ),
    "maps, reduce, before": (
        of_maps,
        lambda: MAPS,
        {"reduce": "avg", "before": "fusion"},
        {"workers": 1},
    ),
    "gradients, attributions from the mean": (
        of_maps,
        lambda: MAPS,
        {"gradients": 1, "attributions": 0, "baseline": "mean", "batch_size": 20},
        {"workers": 2},
    ),
}


@pytest.mark.parametrize("case", share(2, CASES))
def test_the_store_is_the_same(case, tmp_path):
    build, data, options, resources = CASES[case]
    model = build()
    options = options | {"progress": False}
    path, local = tmp_path / "v.zarr", tmp_path / "local.zarr"
    saved = layertap.distributed.save(model, data(), path, **options, **resources)
    layertap.save(model, data(), local, **options)
    assert_same(path, local)
    alone = layertap.open(local)
    assert saved.overflowed == alone.overflowed
    for name in alone:
        np.testing.assert_array_equal(saved[name][:], alone[name][:])
    assert layertap.verify(saved, model, data(), reduce=options.get("reduce"))
    # Warnings are errors here.
    group = zarr.open_group(path, mode="r")
    members = dict(group.members(max_depth=None))
    for name in saved.reader.paths:
        assert members[name][:].tobytes() == saved.reader.array(name)[:].tobytes()
    if "float16" in case:
        assert sum(saved.overflowed.values()) > 0
        assert saved.reader.block_rows % 7
        # The same call returns the complete store; other data are another run.
        again = layertap.distributed.save(model, data(), path, **options, **resources)
        assert again.reader.store == saved.reader.store
        other = ({"x": X + 1, "b": B}, LABELS, WEIGHTS)
        with pytest.raises(OtherRunError, match="the inputs of row 0 are not"):
            layertap.distributed.save(model, other, path, **options, **resources)


def test_the_store_is_the_same_to_the_bit_in_the_same_blocks(
    model, data, local, tmp_path
):
    """Statistics, too: of workers, or gathered by one process."""
    path = tmp_path / "v.zarr"
    layertap.distributed.save(model, data, path, workers=2, **faulty.OPTIONS)
    here, there = layertap.open(path), layertap.open(local)
    assert here.reader.block_rows == there.reader.block_rows == faulty.BLOCK
    assert_same(path, local)
    truth = here["fusion/in/0"][:].astype("float64")
    statistics = here.statistics["fusion/in/0"]
    np.testing.assert_allclose(statistics.mean, truth.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics.variance, truth.var(0), rtol=1e-4)
    np.testing.assert_array_equal(statistics.maximum, truth.max(0))


def test_a_complete_store_gets_the_rows_that_came_since(tmp_path):
    """The batch and the block that were cut by the end are continued."""
    model, path = of_two(), tmp_path / "v.zarr"
    options = {"batch_size": 7, "workers": 2, "memory": 3 * 16 * 60, "progress": False}

    def save(rows, x=X):
        data = {"x": x[:rows], "b": B[:rows]}, LABELS["a"][:rows]
        return layertap.distributed.save(model, data, path, ids=TEXTS[:rows], **options)

    before = save(150)
    values = before["fusion/in/0"][:]
    # Not in the first batch of a block.
    other = np.where(np.arange(ROWS)[:, None] == 13, X + 1, X)
    with pytest.raises(OtherRunError, match="the inputs of row 13 are not"):
        save(ROWS, other)
    saved = save(ROWS)
    assert (saved.rows, saved.complete) == (ROWS, True)
    assert saved.reader.store == before.reader.store
    assert saved["fusion/in/0"][:150].tobytes() == values.tobytes()
    assert (saved.ids.tolist(), saved.labels[:].tolist()) == (TEXTS, list(range(ROWS)))
    data = {"x": X, "b": B}
    report = layertap.verify(saved, model, data, rows=None)
    assert report, report
    assert report.other_inputs == 0
    truth = saved["fusion/in/0"][:].astype("float64")
    statistics = saved.statistics["fusion/in/0"]
    np.testing.assert_allclose(statistics.mean, truth.mean(0), rtol=1e-4, atol=1e-6)
    # One process finds the same run, complete.
    local = {"ids": TEXTS, "batch_size": 7}
    assert layertap.save(model, (data, LABELS["a"]), path, **local).complete
    with pytest.raises(OtherRunError, match="the data 200"):
        save(200)


def test_workers_preprocess_images_and_skip_the_same_bad_ones(tmp_path, monkeypatch):
    """By the command line, from another folder than the workers'."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(2).integers(0, 256, (20, 4, 6, 3), dtype="uint8")
    for number, image in enumerate(pixels):
        path = tmp_path / "photos" / f"{'ab'[number // 10]}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "photos" / "a" / "05b.jpg").write_text("no picture")
    x = keras.Input((4, 6, 3), name="x")
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    joined = keras.layers.Concatenate(name="fusion")([mean, mean])
    keras.Model(x, joined, name="images").save("images.keras")
    scaled = "keras.applications.inception_v3:preprocess_input"
    words = ["save", "images.keras", "photos", "-o", "v.zarr", "--quiet", "--skip-bad"]
    words += ["--preprocess", scaled, "--batch-size", "3"]
    # Ray is running.
    monkeypatch.setattr(ray_session, "connection", nullcontext)
    done = CliRunner().invoke(main, [*words, "--ray", "--workers", "1"])
    assert done.exit_code == 0, done.output
    saved = layertap.open("v.zarr")
    expected = pixels.mean((1, 2)) / 127.5 - 1
    np.testing.assert_allclose(saved["fusion/in/0"][:], expected, atol=1e-5)
    assert saved.labels[:].tolist() == [0] * 10 + [1] * 10
    assert (saved.class_names, list(saved.skipped)) == (["a", "b"], ["a/05b.jpg"])
    # One process finds the same run, complete.
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "Skipped, since they can't be decoded: a/05b.jpg." in done.output
