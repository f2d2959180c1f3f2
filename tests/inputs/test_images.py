"""A folder of images is an array: ordered, resized, labelled, read when sliced."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layertap.errors import DataError, OptionError
from layertap.inputs.images import ImageFolder, read_images


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
    assert images.classes == ["a", "b"]
    np.testing.assert_array_equal(images.labels, [0, 0, 1, 1])
    assert len(images) == 4
    assert images.shape == (4, 4, 6, 3)
    expected = np.stack([colours(seed=pixels[name]) for name in images.ids])
    assert images[1:3].dtype == np.float32
    np.testing.assert_array_equal(images[1:3], expected[1:3])
    np.testing.assert_array_equal(images[3:9], expected[3:])
    assert images[4:].shape == (0, 4, 6, 3)
    np.testing.assert_array_equal(np.asarray(images), expected)


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
    assert images.classes == []


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
    with pytest.raises(OptionError, match=r"Expected 1, 3 or 4\. Received 2"):
        ImageFolder(tmp_path, (4, 6), 2)


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


def test_the_model_determines_how_images_are_read(tmp_path):
    write(tmp_path / "a.png", colours())
    last, first = Spec((None, 8, 5, 3)), Spec((None, 3, 8, 5))
    assert read_images(tmp_path, last).shape == (1, 8, 5, 3)
    assert read_images(tmp_path, [last]).shape == (1, 8, 5, 3)
    assert read_images(tmp_path, {"image": last}).shape == (1, 8, 5, 3)
    assert read_images(tmp_path, first).shape == (1, 3, 8, 5)


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
        read_images(tmp_path, specs)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        DataError, match=r"has no images\. Expected files that end in \.bmp"
    ):
        ImageFolder(tmp_path, (4, 6), 3)


def test_without_pillow_the_error_says_how_to_install_it(tmp_path):
    write(tmp_path / "a.png", colours())
    program = (
        "import sys; sys.modules['PIL'] = None\n"  # as if not installed
        "from pathlib import Path\n"
        "from layertap.errors import LayertapError\n"
        "from layertap.inputs.images import ImageFolder\n"
        "try:\n    ImageFolder(Path(sys.argv[1]), (4, 6), 3)\n"
        "except LayertapError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'pip install "layertap[images]"' in done.stdout
