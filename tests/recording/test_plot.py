"""Figures of a recording: their numbers, read back, are those of its statistics."""

import shutil

import keras
import numpy as np
import pytest

import layertap
from layertap.errors import AddressError
from tests.support import figures
from tests.support.figures import drawn, ends_of, lines_of
from tests.support.training import X, model, train

pytestmark = pytest.mark.one_backend


@pytest.fixture(autouse=True)
def nothing_shared_changes():
    with figures.untouched():
        yield


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    recorder = layertap.Recorder(X, folder / "$run_1$", before="fusion", save_freq=4)
    train(model(), recorder)
    return recorder.recording


def test_the_lines_are_the_statistics(recording):
    figure = recording.plot("fusion/in/0")
    top, middle, bottom = drawn(figure)
    course = recording.statistics["fusion/in/0"]
    similarity = recording.similarity()["fusion/in/0"]
    for ax in (top, middle, bottom):
        for line in ax.get_lines():
            np.testing.assert_array_equal(line.get_xdata(), course.steps)
        assert ax.get_shared_x_axes().joined(top, ax)
    np.testing.assert_array_equal(lines_of(top)["mean"], course.mean)
    low, high = course.mean - course.deviation, course.mean + course.deviation
    np.testing.assert_allclose(ends_of(top), np.stack([low, high], 1))
    lines = lines_of(middle)
    np.testing.assert_array_equal(lines["zeros"], course.zeros)
    np.testing.assert_array_equal(lines["dead of 5 units"], course.dead / 5)
    lines = lines_of(bottom)
    expected = similarity.to_previous
    np.testing.assert_array_equal(lines["to the step before"], expected)
    np.testing.assert_array_equal(lines["to the last"], similarity.to_last)
    low, high = bottom.get_ylim()
    assert low < np.nanmin(expected) <= 1 < high


def test_titles_axes_and_epochs_are_named(recording):
    figure = recording.plot("fusion/in/1")
    top, middle, bottom = drawn(figure)
    title = "fusion/in/1, recording $run_1$\nmade by right, model functional"
    assert figure.get_suptitle().startswith(title)
    assert figure.get_suptitle().endswith("9 steps")
    labels = [ax.get_ylabel() for ax in (top, middle, bottom)]
    assert labels == ["value", "share", "similarity"]
    assert bottom.get_xlabel() == "step"
    [epochs] = top.child_axes
    assert epochs.get_xlabel() == "epoch"
    assert epochs.get_xticks().tolist() == [12, 24, 36]
    assert [text.get_text() for text in epochs.get_xticklabels()] == ["1", "2", "3"]
    assert top.get_legend() is not None


def test_nan_is_marked_and_not_drawn(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.get_layer("right").beta.assign([0, 0, np.nan, 0])

    recorder = layertap.Recorder(X, tmp_path / "run", before="fusion")
    train(model(), Poison(), recorder)
    top, _, bottom = drawn(recorder.recording.plot("fusion/in/1"))
    assert lines_of(top)["NaN from step 36 on"].tolist() == [0, 1]
    assert "to the last: not known" in lines_of(bottom)


def test_many_epochs_have_no_axis_and_many_steps_a_band(recording, monkeypatch):
    from layertap.recording import plot
    from layertap.results.views import charts

    monkeypatch.setattr(plot, "_MOST_EPOCHS", 2)
    monkeypatch.setattr(charts, "_FEW_POINTS", 4)
    top, *_ = drawn(recording.plot("fusion/in/0"))
    assert top.child_axes == []
    assert len(top.collections[0].get_paths()) == 1


def test_no_steps_and_one_step(tmp_path):
    recorder = layertap.Recorder(X, tmp_path / "run", before="fusion")
    train(model(), recorder, epochs=1)
    assert drawn(recorder.recording.plot("fusion/in/0"))
    for store in (tmp_path / "run").glob("step-*"):
        store.rename(tmp_path / store.name)
    empty = layertap.Recording(tmp_path / "run")
    assert len(empty) == 0
    top, *_ = drawn(empty.plot("fusion/in/0"))
    assert top.texts[0].get_text() == "no steps"


def test_a_value_that_some_steps_do_not_have(recording, tmp_path):
    run = shutil.copytree(recording.path, tmp_path / "run")
    other = layertap.Recorder(X, tmp_path / "other", outputs="left")
    train(model(), other)
    last = "step-000000036.zarr"
    shutil.rmtree(run / last)
    shutil.copytree(tmp_path / "other" / last, run / last)
    mixed = layertap.Recording(run)
    top, _, bottom = drawn(mixed.plot("fusion/in/0"))
    assert len(lines_of(top)["mean"]) == 8
    assert bottom.texts[0].get_text() == "the last step does not have the value"
    top, _, bottom = drawn(mixed.plot("left/out"))
    assert len(lines_of(top)["mean"]) == len(lines_of(bottom)["to the last"]) == 1


def test_an_unknown_address(recording):
    with pytest.raises(AddressError, match="Did you mean 'fusion/in/1'"):
        recording.plot("fusion/in/9")
