"""A folder of images is an array: ordered, resized, labelled, read when sliced."""

import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from layertap.errors import BackendMissingError, DataError, OptionError
from layertap.inputs.feed import Feed
from layertap.inputs.images import ImageFolder

pytestmark = pytest.mark.one_backend


@dataclass
class Spec:
    shape: tuple[int | None, ...]


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def colours(height: int = 4, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, 256, (height, width, 3), dtype="uint8"
    )


def test_images_come_in_the_order_of_their_paths_with_their_pixels(tmp_path):
    pixels = {"b/2.png": 1, "a/10.png": 2, "a/9.bmp": 3, "b/deep/1.PNG": 4}
    for name, seed in pixels.items():
        write(tmp_path / name, colours(seed=seed))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    images = ImageFolder(tmp_path, (4, 6), 3)
    assert images.ids == ["a/10.png", "a/9.bmp", "b/2.png", "b/deep/1.PNG"]
    assert images.class_names == ["a", "b"]
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1])
    assert len(images) == 4
    assert images.shape == (4, 4, 6, 3)
    expected = np.stack([colours(seed=pixels[name]) for name in images.ids])
    assert images[1:3].dtype == np.float32
    np.testing.assert_array_equal(images[1:3], expected[1:3])
    np.testing.assert_array_equal(images[3:9], expected[3:])
    assert images[4:].shape == (0, 4, 6, 3)
    np.testing.assert_array_equal(np.asarray(images), expected)


def test_a_changed_image_is_another_version_of_the_data(tmp_path):
    for name in ("1.png", "2.png"):
        write(tmp_path / name, colours())
    feed = Feed(ImageFolder(tmp_path, (4, 6), 3)).watched()
    feed.check_unchanged()
    write(tmp_path / "2.png", colours(seed=1))
    with pytest.raises(DataError, match=r"2\.png was changed while it was read"):
        feed.check_unchanged()


def test_only_the_files_of_a_slice_are_read(tmp_path):
    write(tmp_path / "1.png", colours())
    (tmp_path / "2.png").write_bytes(b"no image at all")
    images = ImageFolder(tmp_path, (4, 6), 3)
    np.testing.assert_array_equal(images[:1], colours()[None])
    with pytest.raises(DataError, match=r"2\.png is not a readable image"):
        images[1:2]


def test_a_file_that_was_cut_off_is_named(tmp_path):
    write(tmp_path / "complete.jpg", colours(64, 64))
    complete = (tmp_path / "complete.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(complete[: len(complete) // 2])
    with pytest.raises(DataError, match=r"half\.jpg is not a .*truncated"):
        ImageFolder(tmp_path, (8, 8), 3)[:]


def test_without_sub_folders_there_are_no_labels(tmp_path):
    write(tmp_path / "a" / "1.png", colours())
    write(tmp_path / "2.png", colours())
    images = ImageFolder(tmp_path, (4, 6), 3)
    assert images.labels is None
    assert images.class_names == []


def test_hidden_files_are_left_out(tmp_path):
    write(tmp_path / "a.png", colours())
    write(tmp_path / ".cache" / "b.png", colours())
    (tmp_path / "._a.png").write_bytes(b"macOS writes it next to a file")
    (tmp_path / "folder.png").mkdir()
    assert ImageFolder(tmp_path, (4, 6), 3).ids == ["a.png"]


def test_channels(tmp_path):
    pixels = colours()
    write(tmp_path / "a.png", pixels)
    rgba = ImageFolder(tmp_path, (4, 6), 4)[:]
    np.testing.assert_array_equal(rgba[..., :3], pixels[None])
    assert (rgba[..., 3] == 255).all()
    grey = ImageFolder(tmp_path, (4, 6), 1)[:]
    assert grey.shape == (1, 4, 6, 1)
    # ITU-R 601-2, and Pillow rounds.
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[0, ..., 0], luma, atol=1)
    first = ImageFolder(tmp_path, (4, 6), 3, "channels_first")
    assert first.shape == (1, 3, 4, 6)
    np.testing.assert_array_equal(first[:], pixels.transpose(2, 0, 1)[None])
    with pytest.raises(DataError, match="1, 3 or 4 channels"):
        ImageFolder(tmp_path, (4, 6), 2)[:]


def test_sixteen_bits_become_the_upper_eight(tmp_path):
    write(tmp_path / "a.png", np.array([[0, 255, 256, 1000, 65535]], "uint16"))
    found = ImageFolder(tmp_path, (1, 5), 1)[:]
    np.testing.assert_array_equal(found.ravel(), [0, 0, 1, 3, 255])


def test_images_are_resized_to_height_and_width(tmp_path):
    steps = np.repeat(np.array([0, 100], "uint8"), 4)
    write(tmp_path / "a.png", np.tile(steps, (6, 1)))
    images = ImageFolder(tmp_path, (3, 4), 1)
    assert images.shape == (1, 3, 4, 1)
    # A triangle four pixels wide around 1, 3, 5 and 7, of eight pixels.
    centres = np.arange(8) + 0.5
    weights = np.maximum(0, 1 - abs(centres - np.array([[1], [3], [5], [7]])) / 2)
    row = weights @ steps / weights.sum(axis=1)
    np.testing.assert_allclose(images[:][0, ..., 0], np.tile(row, (3, 1)), atol=0.51)


def test_images_are_cropped_to_their_aspect_ratio_before_they_are_resized(tmp_path):
    pixels = colours(6, 8)
    write(tmp_path / "a.png", pixels)
    cropped = ImageFolder(
        tmp_path, (3, 3), 3, interpolation="nearest", crop_to_aspect_ratio=True
    )
    # The middle 6 of 8 columns, then the center of each 2 x 2, rounded to one side.
    middle = pixels[:, 1:7].reshape(3, 2, 3, 2, 3)
    candidates = [middle[:, i, :, j] for i in (0, 1) for j in (0, 1)]
    assert any(np.array_equal(cropped[:][0], each) for each in candidates)
    whole = ImageFolder(tmp_path, (3, 3), 3, interpolation="nearest")
    assert not any(np.array_equal(whole[:][0], each) for each in candidates)
    with pytest.raises(OptionError, match=r"`interpolation`.*box.*Received 'area'"):
        ImageFolder(tmp_path, (3, 3), 3, interpolation="area")


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".ppm", ".avif", ".TIFF"])
def test_all_that_pillow_reads_is_an_image(tmp_path, suffix):
    pixels = np.full((4, 6, 3), (10, 100, 200), "uint8")
    write(tmp_path / f"a{suffix}", pixels)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "data.h5").write_text("no image, and nothing that Pillow reads")
    (tmp_path / "LICENSE").write_text("no image")
    images = ImageFolder(tmp_path, (4, 6), 3)
    assert images.ids == [f"a{suffix}"]
    assert images.passed_over == {".txt": 1, ".h5": 1, "": 1}
    # AVIF is not exact.
    np.testing.assert_allclose(images[:][0], pixels, atol=4)


def test_images_are_preprocessed_as_the_model_needs_it(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", colours(seed=number))
    raw = np.stack([colours(seed=number) for number in range(3)]).astype("float32")
    scaled = keras.applications.inception_v3.preprocess_input
    images = ImageFolder(tmp_path, (4, 6), 3, preprocess=scaled)
    np.testing.assert_allclose(images[:2], raw[:2] / 127.5 - 1, rtol=0, atol=1e-6)
    by_layer = keras.layers.Rescaling(1 / 255)
    images = ImageFolder(tmp_path, (4, 6), 3, preprocess=by_layer)
    np.testing.assert_allclose(images[:], raw / 255, rtol=1e-6)
    grey = ImageFolder(
        tmp_path, (4, 6), 3, preprocess=lambda x: x.mean(axis=-1).astype("float64")
    )
    assert (grey.shape, grey.dtype) == ((3, 4, 6), "float64")
    np.testing.assert_allclose(grey[:], raw.mean(axis=-1), rtol=1e-6)
    with pytest.raises(OptionError, match=r"one row for each image.*\(\)"):
        ImageFolder(tmp_path, (4, 6), 3, preprocess=np.sum)[:]


def bad_images(folder: Path) -> list[str]:
    """Writes two good images and four that can't be decoded."""
    write(folder / "a" / "good.png", colours(seed=1))
    write(folder / "b" / "good.jpg", colours(64, 64))
    complete = (folder / "b" / "good.jpg").read_bytes()
    (folder / "a" / "cut.jpg").write_bytes(complete[: len(complete) // 2])
    (folder / "a" / "empty.png").touch()
    (folder / "c").mkdir()
    (folder / "c" / "text.webp").write_text("no picture")
    Image.fromarray(np.ones((4, 6), "float32")).save(folder / "c" / "float.tif")
    return ["a/cut.jpg", "a/empty.png", "c/float.tif", "c/text.webp"]


def test_bad_images_are_skipped_by_name_if_asked(tmp_path):
    bad = bad_images(tmp_path)
    images = ImageFolder(tmp_path, (4, 6), 3, skip_bad=True)
    assert images.ids == ["a/good.png", "b/good.jpg"]
    assert sorted(images.skipped) == bad
    assert "truncated" in images.skipped["a/cut.jpg"]
    assert "float32" in images.skipped["c/float.tif"]
    # A class has images, or is none.
    assert images.class_names == ["a", "b"]
    np.testing.assert_array_equal(images[:1], colours(seed=1)[None])
    with pytest.raises(DataError, match=r"a/cut\.jpg is not a readable image"):
        ImageFolder(tmp_path, (4, 6), 3)[:]


def test_a_file_that_cannot_be_read_is_an_error_not_a_bad_image(tmp_path, monkeypatch):
    """As if the disk were gone: all images would be skipped."""
    write(tmp_path / "a.png", colours())

    def gone(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", gone)
    with pytest.raises(DataError, match=r"a\.png can't be read: .*Input/output"):
        ImageFolder(tmp_path, skip_bad=True)


def test_the_model_determines_how_images_are_read(tmp_path):
    write(tmp_path / "a.png", colours())
    last, first = Spec((None, 8, 5, 3)), Spec((None, 3, 8, 5))
    images = ImageFolder(tmp_path)
    assert images.fitted(last).shape == (1, 8, 5, 3)
    assert images.fitted([last]).shape == (1, 8, 5, 3)
    assert images.fitted({"image": last}).shape == (1, 8, 5, 3)
    assert images.fitted(first).shape == (1, 3, 8, 5)
    of_size = ImageFolder(tmp_path, (4, 6))
    assert of_size.fitted(Spec((None, None, None, 1))).shape == (1, 4, 6, 1)
    assert of_size.fitted(None).shape == (1, 4, 6, 3)


@pytest.mark.parametrize(
    "specs",
    [
        None,
        Spec((None, 8)),
        Spec((None, None, None, 3)),
        Spec((None, 8, 8, 7)),
        [Spec((None, 8, 8, 3)), Spec((None, 8, 8, 3))],
    ],
)
def test_a_model_without_an_input_of_images_is_refused(tmp_path, specs):
    write(tmp_path / "a.png", colours())
    with pytest.raises(DataError, match="Expected one input of shape"):
        ImageFolder(tmp_path).fitted(specs)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"has no images\..* and 1 others"):
        ImageFolder(tmp_path, (4, 6), 3)


def test_options_that_are_no_size_or_no_folder(tmp_path):
    write(tmp_path / "a.png", colours())
    for size in (299, (299,), (4, 6, 3)):
        with pytest.raises(OptionError, match=r"`size`.*\(height, width\)"):
            ImageFolder(tmp_path, size)
    for size in ((0, 6), (4.5, 6)):
        with pytest.raises(OptionError, match=r"`size` is invalid.*at least 1"):
            ImageFolder(tmp_path, size)
    for name in ("gone", "a.png"):
        with pytest.raises(DataError, match=f"{name} is not a folder"):
            ImageFolder(tmp_path / name)


def test_without_pillow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    write(tmp_path / "a.png", colours())
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(BackendMissingError, match=r'pip install "layertap\[images\]"'):
        ImageFolder(tmp_path, (4, 6), 3)
