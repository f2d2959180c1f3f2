"""The demo: a network of two branches on real data, and the commands for it."""

import random
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from layertap.core.optional import require
from layertap.tracing.keras_internals import without_importing_tensorflow

MODEL, DATA, STORE, PAGE = (
    f"digits.{suffix}" for suffix in ("keras", "npz", "zarr", "html")
)

console = Console(highlight=False)


def run(folder: Path, command: Callable[..., None]) -> None:
    """Trains a network on handwritten digits, saves its branches and checks them.

    It leaves the model, the data and the store in `folder`, and replaces those of an
    earlier demo. `command` runs a command of the command line, from its words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, data, store, page = (
        str(folder / name) for name in (MODEL, DATA, STORE, PAGE)
    )
    images, labels = digits()
    console.print(
        f"{len(images):,} handwritten digits of 8x8. A network applies a 3x3 and a 5x5 "
        "convolution to each, and joins them before the classifier."
    )
    network = train(images, labels)
    with without_importing_tensorflow():
        network.save(model)
    np.savez(data, image=images, labels=labels)
    shutil.rmtree(store, ignore_errors=True)
    again = ("--model", model, "--data", data, "--rows", "0")
    for question, *words in (
        ("What does a save capture?", "plan", model, "--rows", str(len(images))),
        ("Save each branch, just before the join:", "save", model, data, "-o", store),
        ("What is in the store?", "show", store),
        ("Do the saved values equal those of the model?", "verify", store, *again),
        ("How much does the result depend on each branch?", "importance", store, model),
        ("Make a page of pictures:", "report", store, "-o", page, "--overwrite"),
    ):
        console.print(f"\n{question}")
        # Names are not markup, and the line can be copied.
        line = f"$ layertap {shlex.join(words)}"
        console.print(line, style="bold", markup=False, soft_wrap=True)
        command(*words)
    console.print(
        f"\nOpen {page} in a browser. {folder} has the model, the data and the store, "
        "too. In Python:\n"
        f"  import layertap\n  saved = layertap.open({store!r})\n"
        '  saved.before("fusion")["look_3x3"][:5]\n'
        f"Without layertap:\n  import zarr\n"
        f'  zarr.open({store!r}, mode="r")["fusion/in/0"][:5]',
        markup=False,
        soft_wrap=True,
    )


def digits() -> tuple[Any, Any]:
    """Returns the 1,797 digits of scikit-learn: images of 8x8x1 from 0 to 1; labels."""
    bunch = require("sklearn.datasets", "demo", "The demo").load_digits()
    images = (bunch.images[..., None] / 16).astype("float32")
    return images, bunch.target.astype("int64")


def network() -> keras.Model:
    """Returns the untrained network of the demo: two branches and a classifier."""
    image = keras.Input((8, 8, 1), name="image")
    branches = []
    for size, filters in ((3, 16), (5, 8)):
        name = f"{size}x{size}"
        x = keras.layers.Conv2D(
            filters, size, padding="same", activation="relu", name=f"conv_{name}"
        )(image)
        x = keras.layers.MaxPooling2D(name=f"pool_{name}")(x)
        branches.append(keras.layers.Flatten(name=f"look_{name}")(x))
    joined = keras.layers.Concatenate(name="fusion")(branches)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(joined)
    return keras.Model(image, digit, name="digits")


def train(images: Any, labels: Any) -> keras.Model:
    """Returns the network, trained for seconds on four of five images."""
    # Not `keras.utils.set_random_seed`: it imports TensorFlow, which takes seconds.
    random.seed(0)
    np.random.seed(0)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    fifth = np.arange(len(images)) % 5 == 0
    model.fit(images[~fifth], labels[~fifth], epochs=16, batch_size=64, verbose=0)
    _, accuracy = model.evaluate(images[fifth], labels[fifth], verbose=0)
    console.print(f"Trained; {accuracy:.1%} of the other images are right.")
    return model
