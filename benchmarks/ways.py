"""The ways to compute the branches of a work, and to write them.

A way is made of a work, and has two parts: what is built once (sub-models, compiled
steps), and what is done each time. `FLOOR` and `RAW` know nothing of layertap: they are
the best that code by hand can do.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.works import Built, Work

Arrays = list[NDArray[Any]]
Step = Callable[[Any], Arrays]
Mark = Callable[[], None]
# Does the work once: takes where to keep the values, and what to call when the first
# batch is done.
Once = Callable[[Path, Mark], None]


@dataclass(frozen=True)
class Job:
    """A work that is built, with data.

    Attributes:
        work: The work.
        built: Its model.
        data: Its inputs.
        stored: The addresses of the branches from which the others can be joined.
        keras: The Keras that the model was built with.
    """

    work: Work
    built: Built
    data: NDArray[Any]
    stored: list[str]
    keras: Any

    def batches(self) -> Iterator[Any]:
        """Yields the batches of inputs."""
        if self.work.source == "loader":
            on_jax = self.keras.backend.backend() == "jax"
            # Of TensorFlow, which JAX does not take.
            yield from map(np.asarray, self.loader()) if on_jax else self.loader()
            return
        size = self.work.batch_size
        for start in range(0, len(self.data), size):
            yield self.data[start : start + size]

    def loader(self) -> Any:
        """Returns the data as the backend's users have them."""
        if self.keras.backend.backend() == "torch":
            import torch

            data = torch.from_numpy(self.data)
            return torch.utils.data.DataLoader(data, batch_size=self.work.batch_size)
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(self.data).batch(self.work.batch_size)

    def submodel(self, addresses: list[str]) -> Any:
        """Returns one model of some branches, as a user would build it."""
        tensors = [self.built.branches[name] for name in addresses]
        if self.work.reduced:
            tensors = [self.keras.ops.mean(tensor, axis=(1, 2)) for tensor in tensors]
        return self.keras.Model(self.built.model.inputs, tensors)


def compiled(job: Job, addresses: list[str]) -> Step:
    """Returns one compiled step that computes some branches, written by hand."""
    by_hand = job.built.by_hand
    if by_hand is None:
        graph = job.submodel(addresses)

        def branches(x: Any) -> Any:
            return graph(x, training=False)

    else:
        branches = by_hand
    match job.keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            signature = [tf.TensorSpec((None, *job.work.shape), "float32")]
            function = tf.function(branches, input_signature=signature)
            return lambda x: [one.numpy() for one in _listed(function(x))]
        case "jax":
            import jax

            if by_hand is not None:
                jitted = jax.jit(branches)
                return lambda x: [np.asarray(one) for one in _listed(jitted(x))]
            stateless = jax.jit(
                lambda weights, others, x: graph.stateless_call(
                    weights, others, x, training=False
                )[0]
            )

            def pass_of(x: Any) -> Arrays:
                # Each time, for `predict` puts other buffers in their place.
                weights = [v.value for v in graph.trainable_variables]
                others = [v.value for v in graph.non_trainable_variables]
                return [
                    np.asarray(one) for one in _listed(stateless(weights, others, x))
                ]

            return pass_of
    import torch

    def step(x: Any) -> Arrays:
        with torch.no_grad():
            found = branches(torch.as_tensor(x))
        return [one.contiguous().numpy() for one in _listed(found)]

    return step


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def floor(job: Job) -> Once:
    """One compiled step over the batches; results copied to the host, and dropped."""
    step: list[Step] = []

    def once(folder: Path, mark: Mark) -> None:
        if not step:
            step.append(compiled(job, job.stored))
        for batch in job.batches():
            step[0](batch)
            mark()

    return once


def raw(job: Job) -> Once:
    """The same, and each branch written to a plain file, which is synced."""
    step: list[Step] = []

    def once(folder: Path, mark: Mark) -> None:
        if not step:
            step.append(compiled(job, job.stored))
        with ExitStack() as stack:
            files = [
                stack.enter_context((folder / f"{i}.bin").open("wb", buffering=0))
                for i in range(len(job.stored))
            ]
            for batch in job.batches():
                for file, array in zip(files, step[0](batch), strict=True):
                    file.write(np.ascontiguousarray(array).data)
                mark()
            for file in files:
                os.fsync(file.fileno())

    return once


def save(job: Job) -> Once:
    """`layertap.save`, with all its guarantees."""
    import layertap

    reduce = "avg" if job.work.reduced else None
    loads = job.work.source == "loader"

    def once(folder: Path, mark: Mark) -> None:
        layertap.save(
            job.built.model,
            job.loader() if loads else job.data,
            folder / "values.zarr",
            batch_size=None if loads else job.work.batch_size,
            reduce=reduce,
            progress=lambda rows, written: mark(),
        )

    return once


def capture(job: Job) -> Once:
    """`layertap.capture`: nothing is written."""
    import layertap

    def once(folder: Path, mark: Mark) -> None:
        layertap.capture(job.built.model, job.data, batch_size=job.work.batch_size)

    return once


def predict(job: Job) -> Once:
    """One model of all branches, `predict`; nothing is written."""
    model: list[Any] = []

    def once(folder: Path, mark: Mark) -> None:
        if not model:
            model.append(job.submodel(list(job.built.branches)))
        if job.work.source == "loader":
            model[0].predict(job.loader(), verbose=0)
        else:
            model[0].predict(job.data, batch_size=job.work.batch_size, verbose=0)

    return once


def multi(job: Job) -> Once:
    """One model of all branches, `predict`, `np.save`."""
    model: list[Any] = []

    def once(folder: Path, mark: Mark) -> None:
        if not model:
            model.append(job.submodel(list(job.built.branches)))
        found = model[0].predict(job.data, batch_size=job.work.batch_size, verbose=0)
        for i, array in enumerate(_listed(found)):
            np.save(folder / f"{i}.npy", array)

    return once


def article(job: Job) -> Once:
    """The article's way: a model for each branch, `predict`, `np.save`."""
    models: list[Any] = []

    def once(folder: Path, mark: Mark) -> None:
        if not models:
            models.extend(job.submodel([name]) for name in job.built.branches)
        for i, model in enumerate(models):
            found = model.predict(job.data, batch_size=job.work.batch_size, verbose=0)
            np.save(folder / f"{i}.npy", _listed(found)[0])

    return once


def h5py(job: Job) -> Once:
    """A loop by hand: `predict_on_batch` of one model, into data sets of h5py."""
    import h5py

    model: list[Any] = []

    def once(folder: Path, mark: Mark) -> None:
        if not model:
            model.append(job.submodel(list(job.built.branches)))
        sets: list[Any] = []
        with h5py.File(folder / "values.h5", "w") as file:
            start = 0
            for batch in job.batches():
                found = _listed(model[0].predict_on_batch(batch))
                if not sets:
                    sets = [
                        file.create_dataset(
                            str(i), (len(job.data), *array.shape[1:]), array.dtype
                        )
                        for i, array in enumerate(found)
                    ]
                for one, array in zip(sets, found, strict=True):
                    one[start : start + len(batch)] = array
                start += len(batch)
                mark()

    return once


def keract(job: Job) -> Once:
    """The package keract: all rows in one pass, and its one JSON."""
    import keract

    def once(folder: Path, mark: Mark) -> None:
        names = list(job.built.layers)
        found = keract.get_activations(job.built.model, job.data, layer_names=names)
        keract.persist_to_json_file(found, str(folder / "values.json"))

    return once


def thingsvision(job: Job) -> Once:
    """The package thingsvision, which builds its model again for each batch."""
    import thingsvision

    def once(folder: Path, mark: Mark) -> None:
        extractor = thingsvision.get_extractor_from_model(
            model=job.built.model, device="cpu", backend="tf"
        )
        extractor.extract_features(
            batches=list(job.batches()),
            module_names=list(job.built.layers),
            output_dir=str(folder),
            save_in_one_file=True,
        )

    return once


WAYS: dict[str, Callable[[Job], Once]] = {
    way.__name__: way
    for way in (
        *(floor, raw, save, capture, predict, multi, article, h5py),
        *(keract, thingsvision),
    )
}
