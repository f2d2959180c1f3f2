"""What gradients and attributions cost beside values: the ways take turns.

Every way has all values of the work, in batches, and keeps nothing on disk but `save`
and `gradients`. `head` is the floor of attributions: as many gradients of the model
from the join on as there are steps, written by hand for each backend.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ways import Job

# The work, its join, and the steps of attributions.
WORK, JOIN, STEPS = "W2", "fusion", 16
# The output that is differentiated.
OUTPUT = 0
TURNS = 5


def ways(job: Job, folder: Path) -> dict[str, Callable[[], Any]]:
    """Returns the ways, which were not called before."""
    import layertap

    model, size = job.built.model, job.work.batch_size
    _, head = layertap.split(model, JOIN)
    values = layertap.capture(model, job.data, batch_size=size)
    names = list(values)
    batches = [
        {name: np.array(values[name][start : start + size]) for name in names}
        for start in range(0, len(job.data), size)
    ]
    gradient = _gradient(job, head, names)

    def by_hand() -> None:
        for batch in batches:
            for step in range(STEPS):
                share = np.float32((step + 0.5) / STEPS)
                gradient({name: batch[name] * share for name in names})

    def save(**options: Any) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            layertap.save(model, job.data, f"{kept}/v", batch_size=size, **options)

    def attributions() -> None:
        layertap.capture(
            model, job.data, attributions=OUTPUT, steps=STEPS, batch_size=size
        )

    return {
        "save": save,
        "gradients": lambda: save(gradients=OUTPUT),
        "capture": lambda: layertap.capture(model, job.data, batch_size=size),
        "attributions": attributions,
        "head": by_hand,
    }


def measure(job: Job, folder: Path, turns: int) -> dict[str, list[float]]:
    """Returns the seconds of each way in each turn, after one that does not count."""
    taking = ways(job, folder)
    found: dict[str, list[float]] = {name: [] for name in taking}
    for turn in range(turns + 1):
        for name, way in taking.items():
            start = time.perf_counter()
            way()
            if turn:
                found[name].append(time.perf_counter() - start)
    return found


def _gradient(job: Job, head: Any, names: list[str]) -> Callable[[Any], Any]:
    """Returns the compiled gradient of an output of a head, written by hand."""
    match job.keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            @tf.function(reduce_retracing=True)
            def of_tensors(x: Any) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    total = tf.reduce_sum(head(x, training=False)[:, OUTPUT])
                return tape.gradient(total, x)

            def on_tensorflow(x: Any) -> Any:
                tensors = {name: tf.convert_to_tensor(x[name]) for name in names}
                return {n: one.numpy() for n, one in of_tensors(tensors).items()}

            return on_tensorflow
        case "jax":
            import jax

            def total(x: Any, trained: Any, others: Any) -> Any:
                outputs, _ = head.stateless_call(trained, others, x, training=False)
                return outputs[:, OUTPUT].sum()

            compiled = jax.jit(jax.grad(total))

            def on_jax(x: Any) -> Any:
                trained = [v.value for v in head.trainable_variables]
                others = [v.value for v in head.non_trainable_variables]
                return jax.tree.map(np.asarray, compiled(x, trained, others))

            return on_jax
    import torch

    def on_torch(x: Any) -> Any:
        tensors = {n: torch.from_numpy(x[n]).requires_grad_() for n in names}
        total = head(tensors, training=False)[:, OUTPUT].sum()
        found = torch.autograd.grad(total, [tensors[name] for name in names])
        return [one.numpy() for one in found]

    return on_torch
