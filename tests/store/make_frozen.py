"""Writes the frozen store of the current format, `tests/store/frozen/format_2.zarr`.

Run it once for each format, and never again for the same one: the store stands for
those of users. Its numbers are plain arithmetic, so that the test can compute them:
`left` has row * 4 + column, `right` minus that, and labels are row squared.
"""

from pathlib import Path

import keras
import numpy as np

import layertap


def main() -> None:
    """Saves thirty rows of a model with an alias and a recipe."""
    x = keras.Input((4,), name="x")
    left = keras.layers.Identity(name="left")(x)
    right = keras.layers.Rescaling(-1.0, name="right")(x)
    first = keras.layers.Concatenate(name="first")([left, right])
    second = keras.layers.Concatenate(name="second")([first, right])
    model = keras.Model(x, second, name="frozen")
    rows = np.arange(120, dtype="float32").reshape(30, 4)
    layertap.save(
        model,
        (rows, np.arange(30) ** 2),
        Path(__file__).parent / "frozen" / "format_2.zarr",
        ids=[f"row-{i}" for i in range(30)],
        memory=2**16,
    )


if __name__ == "__main__":
    main()
