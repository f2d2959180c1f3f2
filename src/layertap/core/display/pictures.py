"""Small pictures of numbers: histograms, maps in grey, and PNG."""

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

_BARS, _WIDTH, _HEIGHT = 24, 96, 18
_MOST_MAPS, _MOST_PIXELS = 4, 64
# The pixels of a map on the page, along its longer side.
_SHOWN = 96


@dataclass(frozen=True)
class Picture:
    """A picture, and what it shows in words.

    Attributes:
        label: The words.
        bars: The path of the bars of a histogram, in the language of SVG.
        png: The bytes of a map, in base64.
        width: The width on the page, in pixels.
        height: The height on the page.
    """

    label: str
    bars: str = ""
    png: str = ""
    width: int = _WIDTH
    height: int = _HEIGHT

    def __rich__(self) -> Text:
        return Text(self.label)


def histogram(numbers: NDArray[np.float64], total: int, noun: str) -> Picture:
    """Returns the histogram of a sample of `total` numbers."""
    finite = numbers[np.isfinite(numbers)]
    share = "" if len(numbers) == total else f"{len(numbers):,} of "
    label = f"{share}{total:,} {noun}"
    if len(finite) < len(numbers):
        label += f", {len(numbers) - len(finite):,} not finite"
    if not len(finite):
        return Picture(label)
    low, high = finite.min(), finite.max()
    label += f", from {low:.4g} to {high:.4g}" if low < high else f", all {low:.4g}"
    # Halves of finite numbers have a finite distance.
    spread = high / 2 - low / 2
    places = (
        np.full(len(finite), 0.5) if not spread else (finite / 2 - low / 2) / spread
    )
    counts = np.bincount((places * _BARS).astype(int).clip(0, _BARS - 1), None, _BARS)
    step = _WIDTH // _BARS
    # The least bar is one pixel high.
    heights = np.ceil(counts / counts.max() * _HEIGHT).astype(int)
    bars = "".join(
        f"M{i * step} {_HEIGHT}v-{height}h{step - 1}v{height}z"
        for i, height in enumerate(heights)
        if height
    )
    return Picture(label, bars)


def maps(
    row: NDArray[Any], number_of_row: int = 0, *, channels_first: bool | None = None
) -> Iterator[Picture]:
    """Yields the first maps of a row of three axes, from black to white."""
    first = channels_first
    if first is None:
        # Where height and width are alike, the other axis is that of the channels.
        first = row.shape[1] == row.shape[2] != row.shape[0]
    channels = np.moveaxis(row, 0 if first else -1, 0)
    for number, channel in enumerate(channels[:_MOST_MAPS]):
        steps = (max(1, -(-size // _MOST_PIXELS)) for size in channel.shape)
        pixels = channel[tuple(slice(None, None, step) for step in steps)]
        numbers = as_floats(pixels)
        known = np.isfinite(numbers)
        if not numbers.size:
            continue
        label = f"map {number} of {len(channels):,}, row {number_of_row:,}"
        grey = np.zeros(numbers.shape)
        if known.any():
            low, high = numbers[known].min(), numbers[known].max()
            label += f", from {low:.4g} to {high:.4g}"
            spread = (high / 2 - low / 2) or 1.0
            grey = np.where(known, (numbers / 2 - low / 2) / spread * 255, 0)
        height, width = channel.shape
        scale = _SHOWN / max(height, width)
        encoded = base64.b64encode(png(grey, known)).decode()
        sizes = (max(1, round(size * scale)) for size in (width, height))
        yield Picture(label, "", encoded, *sizes)


def as_floats(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Returns numbers in 64 bits; of complex ones their absolute values."""
    with np.errstate(all="ignore"):
        real = np.abs(numbers) if numbers.dtype.kind == "c" else numbers
        return real.astype(np.float64)


def png(levels: NDArray[np.float64], opaque: NDArray[np.bool_]) -> bytes:
    """Encodes pixels from 0 to 255, transparent where they are not known.

    A pixel is grey, of shape `(height, width)`, or has a last axis: red, green, blue.
    """
    height, width = opaque.shape
    pixels = np.dstack([levels, opaque * 255]).astype(np.uint8)
    # Before each line stands its filter: none.
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    form = 4 if pixels.shape[2] == 2 else 6
    header = struct.pack(">IIBBBBB", width, height, 8, form, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
