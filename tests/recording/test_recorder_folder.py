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
from tests.support.training import PROBE, X, Y, model, train

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
    ],
    ids=["address", "iterator", "shape", "labels"],
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
        ("s3://bucket/run", {}, "Expected a folder"),
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
