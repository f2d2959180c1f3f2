"""A folder of images is saved with its labels, ids and class names, and resumed."""

import keras
import numpy as np
import pytest
from PIL import Image

import layertap
from layertap.errors import DataError, OtherRunError

pytestmark = pytest.mark.one_backend

NAMES = [f"{kind}/{number}.png" for kind in ("cats", "dogs") for number in range(4)]


@pytest.fixture
def folder(tmp_path):
    """Eight images of 4 x 6 and one that can't be decoded."""
    for seed, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(path)
    (tmp_path / "photos" / "dogs" / "2b.jpg").write_text("no picture")
    (tmp_path / "photos" / "dogs" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype="uint8")


def model(*, size=(4, 6)):
    image = keras.Input((*size, 3), name="image")
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(image)
    top = keras.layers.GlobalMaxPooling2D(name="top")(image)
    joined = keras.layers.Concatenate(name="fusion")([mean, top])
    return keras.Model(image, joined, name="of_images")


def centred(x):
    return x / 127.5 - 1


MEANS = np.stack([pixels(seed).mean((0, 1)) for seed in range(8)])


def test_labels_of_images_may_be_other_strings(folder, tmp_path):
    images = layertap.images(folder, skip_bad=True)
    kinds = ["red", "blue"] * 4
    saved = layertap.save(model(), (images, np.array(kinds)), tmp_path / "v.zarr")
    assert saved.class_names == ["blue", "red"]
    assert saved.labels[:].tolist() == [1, 0] * 4
    values = layertap.capture(model(), (images, np.array(kinds)))
    assert values.labels.tolist() == kinds
    with pytest.raises(OtherRunError, match="classes blue, red, the data cats, dogs"):
        layertap.save(model(), images, tmp_path / "v.zarr")


def test_a_folder_brings_labels_ids_and_class_names(folder, tmp_path):
    images = layertap.images(folder, preprocess=centred, skip_bad=True)
    saved = layertap.save(model(), images, tmp_path / "v.zarr", batch_size=3)
    assert saved.ids.tolist() == NAMES
    assert saved.labels[:].tolist() == [0] * 4 + [1] * 4
    assert saved.class_names == ["cats", "dogs"]
    assert list(saved.skipped) == ["dogs/2b.jpg"]
    assert saved.passed_over == {".txt": 1}
    assert repr(saved).endswith("complete, 1 image skipped>")
    assert saved.to_json()["class_names"] == ["cats", "dogs"]
    values = saved["fusion/in/0"][:]
    np.testing.assert_allclose(values, MEANS / 127.5 - 1, atol=1e-5)
    assert layertap.verify(saved, model(), images, rows=None)
    # The same images, opened again.
    again = layertap.images(folder, (4, 6), preprocess=centred, skip_bad=True)
    assert layertap.save(model(), again, tmp_path / "v.zarr", batch_size=3).complete
    values = layertap.capture(model(), images)
    assert list(values.ids) == NAMES
    np.testing.assert_array_equal(values.labels, saved.labels[:])


def test_another_preprocessing_is_another_run(folder, tmp_path):
    images = layertap.images(folder, preprocess=centred, skip_bad=True)
    saved = layertap.save(model(), images, tmp_path / "v.zarr")
    raw = layertap.images(folder, skip_bad=True)
    with pytest.raises(layertap.OtherRunError, match=r"preprocess: .*centred.* None"):
        layertap.save(model(), raw, tmp_path / "v.zarr")
    assert not layertap.verify(saved, model(), raw)


def test_a_save_that_a_bad_image_ended_goes_on_without_it(folder, tmp_path):
    store, size = tmp_path / "v.zarr", {"batch_size": 2}
    with pytest.raises(DataError, match=r"dogs/2b\.jpg is not a readable image"):
        layertap.save(model(), layertap.images(folder), store, **size)
    assert layertap.open(store).rows == 6
    assert layertap.open(store).class_names == ["cats", "dogs"]
    images = layertap.images(folder, skip_bad=True)
    saved = layertap.save(model(), images, store, **size)
    assert saved.ids.tolist() == NAMES
    assert list(saved.skipped) == ["dogs/2b.jpg"]
    np.testing.assert_allclose(saved["fusion/in/0"][:], MEANS, rtol=1e-6)


def test_other_labels_have_no_class_names(folder, tmp_path):
    images = layertap.images(folder, skip_bad=True)
    saved = layertap.save(model(), (images, np.arange(8)), tmp_path / "v.zarr")
    assert saved.labels[:].tolist() == list(range(8))
    assert saved.ids.tolist() == NAMES
    assert saved.class_names == []
    saved = layertap.save(model(), (images, images.labels), tmp_path / "w.zarr")
    assert saved.class_names == ["cats", "dogs"]


def test_images_are_one_of_several_inputs(folder, tmp_path):
    image, age = keras.Input((4, 6, 3), name="image"), keras.Input((2,), name="age")
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(image)
    joined = keras.layers.Concatenate(name="fusion")([mean, age])
    network = keras.Model([image, age], joined)
    ages = np.arange(16, dtype="float32").reshape(8, 2)
    data = {"image": layertap.images(folder, skip_bad=True), "age": ages}
    saved = layertap.save(network, data, tmp_path / "v.zarr")
    np.testing.assert_allclose(saved["fusion/in/0"][:], MEANS, rtol=1e-6)
    np.testing.assert_array_equal(saved["fusion/in/1"][:], ages)
    assert list(saved.skipped) == ["dogs/2b.jpg"]


def test_a_model_of_open_sizes_needs_a_size(folder, tmp_path):
    images = layertap.images(folder, skip_bad=True)
    with pytest.raises(DataError, match=r"all known but the rows.*layertap\.images\("):
        layertap.save(model(size=(None, None)), images, tmp_path / "v.zarr")
    sized = layertap.images(folder, (4, 6), skip_bad=True)
    saved = layertap.save(model(size=(None, None)), sized, tmp_path / "v.zarr")
    np.testing.assert_allclose(saved["fusion/in/0"][:], MEANS, rtol=1e-6)
