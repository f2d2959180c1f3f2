"""Histograms and maps: bars that count, pixels that a decoder of PNG reads back."""

import base64
import re
import struct
import zlib

import ml_dtypes
import numpy as np
import pytest

from layertap.core.display.pictures import as_floats, histogram, maps


def heights(picture):
    """Returns the heights of the bars by their places."""
    found = re.findall(r"M(\d+) 18v-(\d+)h3v\d+z", picture.bars)
    return {int(left) // 4: int(height) for left, height in found}


def pixels(picture):
    """Decodes a PNG of grey and alpha without filters."""
    data = base64.b64decode(picture.png)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, start = {}, 8
    while start < len(data):
        (size,) = struct.unpack(">I", data[start : start + 4])
        name, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + size]
        (crc,) = struct.unpack(">I", data[start + 8 + size : start + 12 + size])
        assert crc == zlib.crc32(name + body)
        parts[name] = body
        start += 12 + size
    width, height, *kind = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert kind == [8, 4, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8)
    lines = lines.reshape(height, 1 + 2 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 2)


def test_bars_are_as_high_as_numbers_are_many():
    numbers = np.repeat(np.arange(24.0) + 0.5, np.arange(24) % 19)
    numbers = np.concatenate([numbers, [0.0, 24.0]])
    picture = histogram(numbers, 1000, "numbers")
    counts = np.histogram(numbers, 24, (0, 24))[0]
    expected = {i: n for i, n in enumerate(counts.tolist()) if n}
    assert heights(picture) == expected
    assert picture.label == f"{len(numbers)} of 1,000 numbers, from 0 to 24"


@pytest.mark.parametrize(
    ("numbers", "label", "bars"),
    [
        ([np.nan, np.nan], "2 numbers, 2 not finite", 0),
        ([np.nan, np.inf, 3, 3], "4 numbers, 2 not finite, all 3", 1),
        ([-0.0, 0.0], "2 numbers, all 0", 1),
        ([-1.7e308, 1.7e308], "2 numbers, from -1.7e+308 to 1.7e+308", 2),
        ([1.0, np.nextafter(1.0, 2)], "2 numbers, from 1 to 1", 2),
        ([5e-324, 0.0], "2 numbers, from 0 to 4.941e-324", 1),
    ],
)
def test_numbers_of_all_kinds(numbers, label, bars):
    picture = histogram(np.array(numbers), len(numbers), "numbers")
    assert picture.label.replace("all -0", "all 0") == label
    assert len(heights(picture)) == bars


def test_maps_are_pixels_from_black_to_white():
    row = np.random.default_rng(0).normal(size=(5, 7, 6)).astype("float32")
    row[2, 3, 1] = np.nan
    pictures = [*maps(row)]
    assert len(pictures) == 4
    for channel, picture in enumerate(pictures):
        numbers = row[..., channel].astype(float)
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        assert picture.label == (
            f"map {channel} of 6, row 0, from {low:.4g} to {high:.4g}"
        )
        grey, alpha = np.moveaxis(pixels(picture), -1, 0)
        known = np.isfinite(numbers)
        np.testing.assert_array_equal(alpha, known * 255)
        expected = (numbers - low) / (high - low) * 255
        np.testing.assert_allclose(grey[known], expected[known], atol=1)
        assert (picture.width, picture.height) == (96, 69)


def test_channels_that_come_first_are_found():
    row = np.zeros((3, 8, 8))
    assert [p.label.split(",")[0] for p in maps(row)] == [
        f"map {i} of 3" for i in range(3)
    ]
    assert len([*maps(np.zeros((8, 8, 8)))]) == 4


@pytest.mark.parametrize("shape", [(300, 2, 1), (1, 1, 1), (2, 500, 2)])
def test_large_maps_are_thinned(shape):
    (picture, *_) = maps(np.ones(shape, "uint8"))
    assert max(pixels(picture).shape) <= 64
    assert max(picture.width, picture.height) == 96


@pytest.mark.parametrize("shape", [(0, 3, 1), (3, 0, 1), (3, 3, 0)])
def test_empty_maps_are_none(shape):
    assert [*maps(np.ones(shape))] == []


@pytest.mark.parametrize(
    "dtype", ["bool", "uint64", "float16", ml_dtypes.bfloat16, "complex64"]
)
def test_all_dtypes_are_numbers(dtype):
    assert as_floats(np.array([1, 0]).astype(dtype)).tolist() == [1.0, 0.0]


def test_complex_numbers_are_shown_by_their_size():
    assert as_floats(np.array([3 + 4j, np.nan, np.inf * 1j])).tolist()[0] == 5.0
