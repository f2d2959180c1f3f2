"""Epochs of training on saved values, compared with epochs without a store.

Each is the second epoch of a `fit`, after compilation and start-up. The labels are
random: how well the head learns does not matter.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ways import Job

# The work, its join, and the number of classes.
WORK, JOIN, CLASSES = "W2", "fusion", 10
# The ways that read from a store; the second is TensorFlow's own.
STORE = ("dataset", "tf")


def ways(backend: str) -> tuple[str, ...]:
    """Returns the ways of a backend in the order of their turns."""
    return ("memory", *(STORE if backend == "tensorflow" else STORE[:1]), "images")


class Training:
    """The head of a work, its store, and the model with all before the head frozen.

    Args:
        job: The work.
        folder: Where to save it.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        import layertap

        self._job = job
        self._size = job.work.batch_size
        model = job.built.model
        random = np.random.default_rng(0)
        self._labels = random.integers(0, CLASSES, len(job.data))
        layertap.save(
            model,
            (job.data, self._labels),
            folder / "training.zarr",
            before=JOIN,
            for_head=True,
            batch_size=self._size,
        )
        self._saved = layertap.open(folder / "training.zarr")
        self._arrays = {name: self._saved[name][:] for name in job.built.branches}
        stem, self._head = layertap.split(model, JOIN)
        # They share their layers with the model.
        stem.trainable = False
        trained = [weight.path for weight in self._head.trainable_weights]
        if [weight.path for weight in model.trainable_weights] != trained:
            raise AssertionError(f"more of the model is trained than {trained}")
        for one in (model, self._head):
            one.compile("adam", "sparse_categorical_crossentropy")
        self._ways = {
            "memory": self._memory,
            "dataset": self._dataset,
            "tf": self._tf,
            "images": self._images,
        }

    def epoch(self, way: str) -> dict[str, float]:
        """Trains for two epochs, and returns seconds and loss of the second."""
        ends: list[float] = []
        watch = self._job.keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
        )
        history = self._ways[way](epochs=2, callbacks=[watch], verbose=0).history
        return {"seconds": ends[1] - ends[0], "loss": float(history["loss"][1])}

    def _memory(self, **options: Any) -> Any:
        """The head, from arrays in memory."""
        size = self._size
        return self._head.fit(self._arrays, self._labels, batch_size=size, **options)

    def _dataset(self, **options: Any) -> Any:
        """The head, from the store, by `Saved.dataset`."""
        data = self._saved.dataset(batch_size=self._size, shuffle=True, seed=0)
        return self._head.fit(data, shuffle=False, **options)

    def _tf(self, **options: Any) -> Any:
        """The head, from the store, by `Saved.tf`."""
        data = self._saved.tf(batch_size=self._size, shuffle=True, seed=0)
        return self._head.fit(data, **options)

    def _images(self, **options: Any) -> Any:
        """The complete model, of which only the head learns."""
        model, data = self._job.built.model, self._job.data
        return model.fit(data, self._labels, batch_size=self._size, **options)
