"""A recorder checks its arguments and its folder before a training begins."""

import json

import keras
import numpy as np
import pytest

import layertap
from layertap.errors import (
    AddressError,
    DataError,
    LayertapError,
    NotAStoreError,
    OptionError,
    OtherRunError,
)
from tests.support.faults import small_disk
from tests.support.training import PROBE, Probe, X, Y, model, train

pytestmark = pytest.mark.one_backend


def test_later_steps_of_a_finished_training_stay_unless_overwritten(tmp_path):
    run = tmp_path / "run"
    train(model(), layertap.Recorder(PROBE, run, before="fusion"), epochs=3)
    other = model()
    with pytest.raises(OtherRunError, match="steps up to 36, but the model is at st"):
        train(other, layertap.Recorder(PROBE, run, before="fusion"))
    assert int(other.optimizer.iterations) == 0
    assert list(layertap.Recording(run)) == [12, 24, 36]
    again = layertap.Recorder(PROBE, run, before="fusion", overwrite=True)
    train(other, again, epochs=1)
    assert list(layertap.Recording(run)) == [12]
    assert layertap.Recording(run).epochs == {12: 1}
    assert sorted(entry.name for entry in run.iterdir()) == [
        "recording.json",
        "step-000000012.zarr",
    ]


def test_steps_of_an_interrupted_training_are_recorded_again(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(model(), layertap.Recorder(PROBE, run), Stop())
    assert not layertap.Recording(run).finished
    assert list(layertap.Recording(run)) == [12, 24]
    changed = model()
    changed.get_layer("left").kernel.assign(np.ones((6, 5)))
    with pytest.warns(layertap.PartialWarning, match="2 steps of a training that did"):
        train(changed, layertap.Recorder(PROBE, run), epochs=1)
    recording = layertap.Recording(run)
    assert list(recording) == [12]
    assert recording.finished
    expected = layertap.capture(changed, X[:21])
    np.testing.assert_array_equal(
        recording[12]["fusion/in/0"][:], expected["fusion/in/0"]
    )


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (PROBE, {"before": "fusoin"}, AddressError, "fusoin"),
        (iter([X[:8]]), {}, OptionError, "An iterator can't be recorded"),
        (np.zeros((5, 7), "float32"), {}, DataError, "7"),
        (X[:5], {"gradients": "loss"}, LayertapError, "labels"),
        (PROBE, {"compression": "lz4"}, OptionError, "compression"),
        ((X[:2], {"z": np.array(["a", "b"])}), {}, DataError, "labels/z"),
    ],
    ids=["address", "iterator", "shape", "labels", "compression", "texts"],
)
def test_wrong_arguments_raise_before_the_first_batch(
    tmp_path, data, options, error, message
):
    made = model()
    recorder = layertap.Recorder(data, tmp_path / "run", **options)
    with pytest.raises(error, match=message):
        train(made, recorder)
    assert int(made.optimizer.iterations) == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("run", {"save_freq": 0}, "`save_freq` is invalid"),
        ("run", {"dtype": "int8"}, "dtype"),
        (b"run", {}, "Expected the path of a folder"),
        ("s3://bucket/run", {}, "Expected the path of a folder"),
    ],
)
def test_wrong_arguments_raise_at_once(path, options, message):
    with pytest.raises(OptionError, match=message):
        layertap.Recorder(X, path, **options)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NotAStoreError, match="is not a recording"):
        train(model(), layertap.Recorder(PROBE, tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_does_not_end_the_training(tmp_path):
    class Fill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.full = disk.filled() if epoch == 1 else None
            if self.full:
                self.full.__enter__()

        def on_epoch_end(self, epoch, logs=None):
            if self.full:
                self.full.__exit__(None, None, None)

    with small_disk(tmp_path / "disk", "size=4m") as disk:
        recorder = layertap.Recorder(PROBE, disk.path / "run", before="fusion")
        with pytest.warns(layertap.PartialWarning, match="Step 24 .*No space left"):
            # The disk is full while the second step is recorded.
            history = train(model(), recorder, Fill(), epochs=4)
        assert len(history.history["loss"]) == 4
        recording = recorder.recording
        assert list(recording) == [12, 36, 48]
        assert "No space left" in recording.missed[24]
        assert layertap.verify(recording[48])


def test_labels_of_the_progress_bar_are_kept(tmp_path):
    recorder = layertap.Recorder(PROBE, tmp_path / "run", save_freq=6)
    history = train(model(), recorder, epochs=2, validation_data=(X, Y))
    recording = recorder.recording
    assert recording.epochs == {6: 1, 12: 1, 18: 2, 24: 2}
    assert recording.logs[24]["loss"] == history.history["loss"][1]
    data = json.loads(json.dumps(recording.to_json()))
    assert data["steps"] == [6, 12, 18, 24]
    assert data["logs"]["24"].keys() == {"accuracy", "loss"}


def test_a_fit_without_epochs_changes_nothing(tmp_path):
    run = tmp_path / "run"
    made = model()
    train(made, layertap.Recorder(PROBE, run), epochs=2)
    before = (run / "recording.json").read_text()
    train(made, layertap.Recorder(PROBE, run), epochs=2, initial_epoch=2)
    assert (run / "recording.json").read_text() == before
    (tmp_path / "notes.txt").write_text("mine")
    train(made, layertap.Recorder(PROBE, tmp_path), epochs=0)
    assert not (tmp_path / "recording.json").exists()


def test_what_links_lead_to_stays(tmp_path):
    made, run = model(), tmp_path / "run"
    train(made, layertap.Recorder(PROBE, run), epochs=1)
    precious = layertap.save(made, X, tmp_path / "precious.zarr")
    for step in (24, 99):
        (run / f"step-{step:09d}.zarr").symlink_to(tmp_path / "precious.zarr")
    recorder = layertap.Recorder(PROBE, run, overwrite=True)
    train(made, recorder, epochs=1)
    # A link that is of a lost past is removed; its target is not ours.
    assert list(recorder.recording) == [12, 24]
    assert layertap.verify(precious.path)
    assert not (run / "step-000000099.zarr").exists()


def test_an_empty_folder_in_the_place_of_a_step_is_replaced(tmp_path):
    run = tmp_path / "run"
    recorder = layertap.Recorder(PROBE, run)
    train(model(), recorder, epochs=1)
    (run / "step-000000024.zarr").mkdir()
    train(model(), layertap.Recorder(PROBE, run, overwrite=True), epochs=2)
    assert list(recorder.recording) == [12, 24]


def test_a_program_may_change_its_folder(tmp_path, monkeypatch):
    class Move(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            (tmp_path / "other").mkdir(exist_ok=True)
            monkeypatch.chdir(tmp_path / "other")

    monkeypatch.chdir(tmp_path)
    recorder = layertap.Recorder(PROBE, "run")
    train(model(), recorder, Move(), epochs=2)
    monkeypatch.chdir(tmp_path)
    recording = layertap.Recording("run")
    monkeypatch.chdir("/")
    assert recording[24].rows == 21
    assert recording.path == "run"


def test_metrics_of_classes_are_lists_and_cost_no_step(tmp_path):
    made = model()
    made.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
    recorder = layertap.Recorder(PROBE, tmp_path / "run")
    made.fit(X, np.eye(3)[Y], epochs=1, verbose=0, callbacks=[recorder])
    (logs,) = recorder.recording.logs.values()
    assert len(logs["f1_score"]) == 3
    assert isinstance(logs["loss"], float)


def test_an_optimizer_that_is_replaced_is_said(tmp_path):
    class Replace(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.compile("sgd", "sparse_categorical_crossentropy")
                self.model.make_train_function()

    recorder = layertap.Recorder(PROBE, tmp_path / "run")
    with pytest.warns(
        layertap.PartialWarning, match="replaced, and is at step 12 again"
    ):
        train(model(), recorder, Replace(), epochs=4)
    recording = recorder.recording
    assert recording.epochs == {12: 1, 24: 2}
    assert [*recording.missed] == [36, 48]


def test_a_second_training_warns_again(tmp_path):
    made = model()
    probe = Probe(lambda reads: (_ for _ in ()).throw(OSError("gone")))
    recorder = layertap.Recorder(probe, tmp_path / "run")
    for _ in range(2):
        with pytest.warns(layertap.PartialWarning, match="gone"):
            train(made, recorder, epochs=1)
