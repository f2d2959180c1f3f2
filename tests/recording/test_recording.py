"""A recording is read from its stores, and its figures equal their formulas."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import layertap
from layertap.errors import AddressError, NotAStoreError, StoreCorruptError
from tests.support.training import X, model, train

pytestmark = pytest.mark.one_backend
STEPS = [12, 24, 36]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    recorder = layertap.Recorder(X, folder / "run", before="fusion")
    train(model(), recorder)
    return recorder.recording


def test_statistics_over_steps_equal_numpy(made):
    courses = made.statistics
    assert list(courses) == ["fusion/in/0", "fusion/in/1"]
    course = courses["fusion/in/0"]
    values = [saved["fusion/in/0"][:].astype("float64") for saved in made.values()]
    assert course.steps.tolist() == STEPS
    np.testing.assert_allclose(course.mean, [v.mean() for v in values], rtol=1e-6)
    np.testing.assert_allclose(course.deviation, [v.std() for v in values], rtol=1e-6)
    np.testing.assert_allclose(course.zeros, [(v == 0).mean() for v in values])
    dead = [(v == v[0]).all(axis=0).sum() for v in values]
    assert course.dead.tolist() == dead
    assert course.units.tolist() == [5, 5, 5]
    assert (course.first_nan, courses.first_nan) == (None, None)


def cka(one, other):
    """Unbiased, by the formula of Song et al. 2007 for HSIC."""

    def hsic(k, m):
        n = len(k)
        ones = np.ones(n)
        both = k.sum() * m.sum() / ((n - 1) * (n - 2))
        crossed = 2 / (n - 2) * ones @ k @ m @ ones
        return (np.trace(k @ m) + both - crossed) / (n * (n - 3))

    grams = [a @ a.T for a in (one.astype("float64"), other.astype("float64"))]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    k, m = grams
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_similarity_to_the_step_before_and_to_the_end(made):
    found = made.similarity("*/1")
    assert list(found) == ["fusion/in/1"]
    first, second, last = (saved["fusion/in/1"][:] for saved in made.values())
    course = found["fusion/in/1"]
    assert course.steps.tolist() == STEPS
    assert np.isnan(course.to_previous[0])
    np.testing.assert_allclose(
        course.to_previous[1:], [cka(first, second), cka(second, last)], rtol=1e-6
    )
    expected = [cka(first, last), cka(second, last), 1]
    np.testing.assert_allclose(course.to_last, expected, rtol=1e-6)
    some = made.similarity("fusion/in/1", rows=range(10))["fusion/in/1"]
    np.testing.assert_allclose(some.to_last[0], cka(first[:10], last[:10]), rtol=1e-6)


def test_the_first_nan_names_step_and_value(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("right").beta.assign([0, 0, np.nan, 0])

    recorder = layertap.Recorder(X, tmp_path / "run", outputs=["left", "head"])
    recorder2 = layertap.Recorder(X, tmp_path / "other", before="fusion")
    made = model()
    made.get_layer("left").trainable = False
    train(made, Poison(), recorder, recorder2)
    courses = recorder.recording.statistics
    assert courses.first_nan == (24, ["head/out"])
    assert courses["left/out"].first_nan is None
    assert recorder2.recording.statistics.first_nan == (24, ["fusion/in/1"])
    assert courses["head/out"].nan.tolist() == [0, 3 * len(X), 3 * len(X)]


def test_it_prints_as_a_table_and_as_json(made):
    text = str(made)
    assert "3 steps from 12 to 36, finished" in text
    assert "fusion/in/1" in text
    assert "<" in made._repr_html_()
    data = json.loads(json.dumps(made.to_json()))
    assert data["statistics"]["fusion/in/0"]["steps"] == STEPS


def test_a_step_that_is_not_there(made):
    with pytest.raises(AddressError, match=r"no step 13. It has 12, 24, 36"):
        made[13]
    assert 13 not in made
    assert [5] not in made


def test_only_complete_stores_are_steps(made, tmp_path):
    copy = shutil.copytree(made.path, tmp_path / "run")
    manifest = json.loads((copy / "recording.json").read_text())
    # Killed before it was noted, while it was saved, and a step that was deleted.
    del manifest["steps"]["36"]
    (copy / "recording.json").write_text(json.dumps(manifest))
    broken = copy / "step-000000048.zarr"
    shutil.copytree(copy / "step-000000036.zarr", broken)
    root = json.loads((broken / "zarr.json").read_text())
    root["attributes"]["layertap"]["complete"] = False
    (broken / "zarr.json").write_text(json.dumps(root))
    shutil.rmtree(copy / "step-000000012.zarr")
    found = layertap.Recording(copy)
    assert list(found) == [24, 36]
    assert found.epochs == {24: 2}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"steps": {"x": 1}, "missed": {}, "finished": true, "by_batches": false}',
        '{"steps": {"1": {"epoch": "y", "logs": {}}}, "missed": {}}',
        '{"steps": {"1": {"epoch": Infinity, "logs": {}}}, "missed": {}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_recording(tmp_path, content):
    (tmp_path / "recording.json").write_text(content)
    with pytest.raises(StoreCorruptError, match=r"recording.json is damaged"):
        layertap.Recording(tmp_path)


def test_no_recording(tmp_path):
    with pytest.raises(NotAStoreError, match="has no recording"):
        layertap.Recording(tmp_path)
    with pytest.raises(NotAStoreError, match="has no recording"):
        layertap.Recording(tmp_path / "nowhere")


def test_values_that_some_steps_do_not_have(tmp_path):
    made = model()
    for epoch, before in enumerate(["fusion", None]):
        recorder = layertap.Recorder(
            X, tmp_path / "run", before=before, outputs="left" if epoch else None
        )
        train(made, recorder, epochs=1)
    recording = recorder.recording
    assert recording.statistics["fusion/in/1"].steps.tolist() == [12]
    assert recording.statistics["left/out"].steps.tolist() == [24]
    assert list(recording.similarity()) == ["left/out"]


def test_vectors_of_no_variance_are_similar_to_nothing(tmp_path):
    x = keras.Input((6,))
    still = layers.Dense(2, kernel_initializer="zeros", trainable=False)
    parts = [still(x), layers.Dense(3)(x)]
    made = keras.Model(x, layers.Concatenate(name="fusion")(parts))
    made.compile("sgd", "mse")
    recorder = layertap.Recorder(X, tmp_path / "run", save_freq=1)
    made.fit(X, np.zeros((len(X), 5)), verbose=0, callbacks=[recorder], batch_size=48)
    found = recorder.recording.similarity()
    assert np.isnan(found["fusion/in/0"].to_last).all()
    assert found["fusion/in/1"].to_last[-1] == pytest.approx(1)


def test_reading_needs_no_keras(made):
    script = f"import sys, layertap; r = layertap.Recording({made.path!r}); print(r)"
    script += "; r.similarity(); assert 'keras' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "3 steps from 12 to 36" in done.stdout


def test_values_with_gradients_and_complex_numbers_are_compared(tmp_path):
    class Wave(layers.Layer):
        def build(self, shape):
            self.speed = self.add_weight(shape=(), initializer="ones")

        def call(self, x):
            import torch

            return torch.complex(x, self.speed * x.flip(1) ** 2)

    x = keras.Input((6,))
    wave = Wave(name="wave")(x)
    real = layers.Lambda(lambda z: z.real, output_shape=(6,))(wave)
    made = keras.Model(x, layers.Dense(2)(real))
    made.compile("sgd", "mse")

    class Faster(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.get_layer("wave").speed.assign(4.0**epoch)

    recorder = layertap.Recorder(X, tmp_path / "run", outputs="wave")
    made.fit(X, X[:, :2], epochs=2, verbose=0, callbacks=[Faster(), recorder])
    first, last = (saved["wave/out"][:] for saved in recorder.recording.values())
    expected = cka(first.view("float32"), last.view("float32"))
    found = recorder.recording.similarity()["wave/out"].to_last
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert expected < 0.99


def test_a_store_in_a_folder_is_hinted_at(made):
    with pytest.raises(NotAStoreError, match=r"step-000000012.zarr may be one"):
        layertap.open(made.path)
