"""The command line: its commands, their output, and errors for bad input."""

import json
import shutil

import keras
import numpy as np
import pytest

import layertap
from layertap.core import tables
from tests.support.command_files import (
    fails,
    succeeds,
    two_branches,
    typed,
)

pytestmark = pytest.mark.one_backend


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
    saved = layertap.open(store)
    assert list(saved) == ["fusion/in/0", "fusion/in/1"]
    succeeds(*words, "--memory", "1kB")
    assert layertap.open(store).reader.store == saved.reader.store
    succeeds(*words, "--recompute", "--memory", "1kB")
    again = layertap.open(store)
    assert again.reader.store != saved.reader.store
    assert again.reader.block_rows < saved.reader.block_rows


def test_less_to_store(here, tmp_path):
    store = tmp_path / "v.zarr"
    less = ("--dtype", "float16", "--reduce", "sources:largest")
    plan = json.loads(succeeds("plan", "two.keras", "--json", *less))
    assert plan["bytes_per_row"] == 2 * 2
    assert "float16" in succeeds("plan", "two.keras", *less)
    words = ("save", "two.keras", "x.npy", "-o", store, "--quiet", "--dtype", "float16")
    assert "infinite" not in succeeds(*words, "--reduce", "sources:largest")
    saved = layertap.open(store)
    model, x = keras.models.load_model("two.keras"), np.load("x.npy")
    left = layertap.capture(model, x)["fusion/in/0"]
    expected = left.max(axis=1).astype("float16")
    np.testing.assert_array_equal(saved["fusion/in/0"][:], expected)
    verify = ("verify", store, "--model", "two.keras", "--data", "x.npy")
    succeeds(*verify, *less[2:])
    assert "Pass it as --reduce." in fails(2, *verify)
    assert "dtype: the store has float16" in fails(2, *words[:-2])
    assert "reduce: the store has sources.largest" in fails(2, *words)
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
    assert "--reduce is invalid" in fails(2, *words, "--reduce", "median")
    assert "no callable 'lost'" in fails(2, *words, "--reduce", "sources:lost")


def test_maps_are_pooled(here):
    plan = ("plan", "open.keras", "--json", "--reduce")
    for reduce, shape in (
        ("avg", [None, 8]),
        ("max", [None, 8]),
        ("flatten", [None] * 2),
    ):
        (join,) = json.loads(succeeds(*plan, reduce))["joins"]
        assert [branch["shape"] for branch in join["branches"]] == [shape] * 2


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


def test_images_are_preprocessed_and_bad_ones_skipped_by_options(here, tmp_path):
    photos, store = tmp_path / "photos", tmp_path / "v.zarr"
    shutil.copytree("images", photos)
    (photos / "dogs" / "bad.jpg").write_text("no picture")
    (photos / "dogs" / "a.txt").write_text("no image")
    words = ("save", "of_images.keras", photos, "-o", store, "--preprocess")
    scaled = "keras.applications.inception_v3:preprocess_input"
    assert "bad.jpg is not a readable image" in fails(2, *words, scaled)
    output = succeeds(*words, scaled, "--skip-bad")
    notes = [
        "Classes of the labels: cats, dogs.",
        "Skipped, since they can't be decoded: dogs/bad.jpg.",
        "Passed over, since they are not images: 1 .txt.",
    ]
    assert output.splitlines()[1:] == notes
    assert succeeds("show", store).splitlines()[-3:] == notes
    expected = np.array([[1, 10, 200], [0, 10, 200], [2, 10, 200]]) / 127.5 - 1
    np.testing.assert_allclose(
        layertap.open(store)["fusion/in/1"][:], expected, atol=1e-6
    )
    checked = ("verify", store, "--model", "of_images.keras", "--data", photos)
    succeeds(*checked, "--preprocess", scaled, "--skip-bad")
    line = fails(2, *words[:-1], "--skip-bad")
    assert "preprocess: the store has keras" in line


def test_labels_and_ids_are_columns_by_options(here, tmp_path):
    archive, store = tmp_path / "t.npz", tmp_path / "v.zarr"
    columns = {"kind": np.arange(50) % 3, "name": np.arange(50) + 7}
    np.savez(archive, x=np.load("x.npy"), note=np.zeros(50), **columns)
    words = ("save", "two.keras", archive, "-o", store)
    output = succeeds(*words, "--labels", "kind", "--ids", "name")
    assert "50 rows, with labels and ids" in output
    assert output.splitlines()[1:] == ["Not used: 'note'."]
    saved = layertap.open(store)
    np.testing.assert_array_equal(saved.labels[:], columns["kind"])
    np.testing.assert_array_equal(saved.ids, columns["name"])
    checked = ("verify", store, "--model", "two.keras", "--data", archive)
    succeeds(*checked, "--labels", "kind")
    line = fails(2, *words, "--labels", "knd")
    assert "no column 'knd' for --labels. Did you mean 'kind'" in line
    for word in ("--preprocess", "sources:array"), ("--skip-bad",):
        line = fails(2, *words, *word)
        assert "is not a folder of images" in line
        assert word[0] in line


def test_a_callable_returns_data_for_save(here, tmp_path):
    store = tmp_path / "v.zarr"
    succeeds("save", "two.keras", "sources:array", "-o", store)
    succeeds("verify", store, "--model", "two.keras", "--data", "x.npy")


def test_missing_values_are_named_last_and_in_the_exit_status(here, tmp_path):
    x = keras.Input((4,), name="x")
    table = np.ones((3, 4), "float32")
    joined = keras.ops.concatenate([x, table], axis=0)
    keras.Model(x, joined).save(tmp_path / "table.keras")
    np.save(tmp_path / "four.npy", np.zeros((5, 4), "float32"))
    words = ["save", tmp_path / "table.keras", tmp_path / "four.npy", "-o"]
    store = tmp_path / "v.zarr"
    saved = typed(*words, store)
    assert saved.exit_code == 3
    assert saved.stderr == ""
    *_, state, missing = saved.stdout.splitlines()
    assert "complete but for 1 missing value." in state
    # Keras numbers the operations of a process.
    (join,) = layertap.open(store).plan.joins
    assert missing.startswith(f"{join.path}/in/1 is missing: its shape (3, 4)")
    verified = typed("verify", store)
    assert verified.exit_code == 3
    assert f"{join.path}/in/1 is missing" in " ".join(verified.stdout.split())
    message = fails(2, *words, tmp_path / "w", "--before", join.path)
    assert f"{join.path!r} is not complete" in message
    assert not (tmp_path / "w").exists()


def test_progress_in_a_log(here, tmp_path):
    store = tmp_path / "v.zarr"
    words = ("save", "two.keras", "x.npy", "-o", store, "--progress")
    lines = typed(*words).stderr.splitlines()
    files = [file for file in store.rglob("*") if file.is_file()]
    written = [file for file in files if file.name != "zarr.json"]
    size = tables.size(sum(file.stat().st_size for file in written))
    assert lines[:6] == [
        "layertap: importing Keras",
        "layertap: loading two.keras",
        "layertap: opening x.npy",
        "layertap: planning",
        f"layertap: Writing {len(written)} files, up to {size}.",
        "layertap: computing the first batch",
    ]
    assert lines[6] == "layertap: saving 2 values: 32 of 50 rows"
    assert "50 of 50 rows" in lines[-1]
    again = typed(*words)
    assert again.stdout.endswith(", complete. Compared, not computed.\n")
    assert "opposites" in fails(2, *words, "--quiet")


def test_clean_removes_what_a_stopped_save_left(here, tmp_path):
    store = tmp_path / "v.zarr"
    fails(2, "save", "two.keras", "sources:raises_later", "-o", store)
    (store / "fusion" / "in" / "0" / "c.1.0.new").write_bytes(b"half")
    removed = f"{store}: removed 1 file, 4 bytes. Its 4 rows stay.\n"
    assert succeeds("clean", store) == removed
    assert succeeds("clean", store) == f"{store}: removed nothing. Its 4 rows stay.\n"
    assert "nothing" in fails(2, "clean", tmp_path / "gone.zarr")
    assert layertap.verify(layertap.open(store))


@pytest.mark.parametrize(
    ("error", "status"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130)]
)
def test_a_stopped_save_says_how_many_rows_are_safe(here, monkeypatch, error, status):
    def stopped(*arguments, **options):
        raise error

    monkeypatch.setattr(layertap, "save", stopped)
    words = ("save", "two.keras", "x.npy", "-o", "v.zarr")
    result = typed(*words)
    assert result.exit_code == status
    rest = "Committed rows stay. Repeat the same command to resume.\n"
    assert result.stderr == f"Stopped. {rest}"
    error.add_note("layertap: 24 rows are safe. The same call resumes after them.")
    safe = "24 rows are safe. The same command resumes after them."
    assert typed(*words).stderr == f"Stopped. {safe}\n"
