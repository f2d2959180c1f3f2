"""Epochs of training: with a recorder and without, and of students of a teacher.

Each is the second epoch of a `fit`, after compilation and start-up; the ways take
turns. `fit` and `recorded` train the complete model of the work; `recorded` also saves
its branches for 1 % of the rows. `distiller` is Keras' own, whose teacher runs in every
step; `student` trains the same student on the teacher's values, which were saved once.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ways import Job

# The work, its join, and the number of classes.
WORK, JOIN, CLASSES = "W2", "fusion", 10
# The share of the rows that is recorded.
PROBE = 100
TURNS = 3


def measure(job: Job, folder: Path, turns: int) -> dict[str, list[float]]:
    """Returns the seconds of each way in each turn, and those of the teacher's save."""
    begin = time.perf_counter()
    ways = _ways(job, folder)
    found: dict[str, list[float]] = {name: [] for name in ways}
    found["save"] = [time.perf_counter() - begin]
    for turn in range(turns + 1):
        for name, way in ways.items():
            seconds = _second_epoch(job, way)
            if turn:
                found[name].append(seconds)
    return found


def _second_epoch(job: Job, fit: Callable[..., Any]) -> float:
    """Returns the seconds of the second epoch; a callback's work counts."""
    ends: list[float] = []
    watch = job.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    fit(watch)
    return ends[1] - ends[0]


def _ways(job: Job, folder: Path) -> dict[str, Callable[..., Any]]:
    import layertap

    keras, data, size = job.keras, job.data, job.work.batch_size
    model = job.built.model
    labels = np.random.default_rng(0).integers(0, CLASSES, len(data))
    saved = layertap.save(
        model, data, folder / "teacher.zarr", before=JOIN, batch_size=size
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    options = {"epochs": 2, "verbose": 0, "batch_size": size}

    def fit(watch: Any, *callbacks: Any) -> None:
        model.fit(data, labels, callbacks=[*callbacks, watch], **options)

    def recorded(watch: Any) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            probe = data[: -(-len(data) // PROBE)]
            recorder = layertap.Recorder(
                probe, f"{kept}/run", before=JOIN, batch_size=size
            )
            fit(watch, recorder)

    teacher = keras.models.clone_model(model)
    teacher.set_weights(model.get_weights())
    student, distilled = _student(keras, saved), _student(keras, saved)
    student.compile("adam", "mse")
    distiller = _distiller(keras, teacher, distilled, job.built.layers)

    def by_distiller(watch: Any) -> None:
        distiller.fit(data, labels, callbacks=[watch], **options)

    def from_store(watch: Any) -> None:
        targets = saved.dataset(inputs=data, batch_size=size, shuffle=True, seed=0)
        student.fit(targets, callbacks=[watch], epochs=2, verbose=0, shuffle=False)

    return {
        "fit": fit,
        "recorded": recorded,
        "distiller": by_distiller,
        "student": from_store,
    }


def _student(keras: Any, saved: Any) -> Any:
    """Returns a small model that computes the branches of the teacher."""
    x = keras.Input((64, 64, 3))
    maps = keras.layers.Conv2D(8, 5, strides=4, activation="relu")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    names = {name: f"student{place}" for place, name in enumerate(saved)}
    outputs = {
        name: keras.layers.Dense(saved[name].shape[1], name=layer)(pooled)
        for name, layer in names.items()
    }
    return keras.Model(x, outputs)


def _distiller(keras: Any, teacher: Any, student: Any, layers: Any) -> Any:
    """Returns Keras' own distiller of all branches."""
    losses = [
        keras.distillation.FeatureDistillation(
            loss="mse", teacher_layer_name=layer, student_layer_name=f"student{place}"
        )
        for place, layer in enumerate(layers)
    ]
    # It wants a student that ends as the teacher does.
    joined = keras.layers.Concatenate()([*student.output.values()])
    answers = keras.layers.Dense(CLASSES, activation="softmax")(joined)
    whole = keras.Model(student.inputs[0], answers)
    distiller = keras.distillation.Distiller(
        teacher, whole, losses, [1.0] * len(losses), student_loss_weight=0.0
    )
    distiller.compile("adam", loss="sparse_categorical_crossentropy")
    return distiller
