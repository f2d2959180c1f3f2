"""A Keras callback that records the values of some data during training."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import keras

from layertap.core.progress import Progress
from layertap.effects.derivatives import Baseline, derivatives
from layertap.effects.target import Of
from layertap.errors import (
    LayertapError,
    NotAStoreError,
    OptionError,
    OtherRunError,
    PartialWarning,
    check_number,
)
from layertap.inputs.feed import Feed
from layertap.pipeline.run import Run, planned_run
from layertap.pipeline.save import save_run
from layertap.pipeline.schema import StoreOptions
from layertap.planning.join_filter import Kind
from layertap.planning.padding import Pad
from layertap.planning.reduction import Dtype, Reduce, Reduction
from layertap.planning.selection import Selection
from layertap.recording.manifest import (
    Manifest,
    Moment,
    is_recording,
    steps_in,
    store_of,
)
from layertap.recording.recording import Recording
from layertap.store.location import remove
from layertap.tracing.model_structure import input_specs


class Recorder(keras.callbacks.Callback):
    """Records the values of some data during `fit`: a store for each step.

    At the end of every epoch, or every so many batches, it saves what `layertap.save`
    saves with the weights of that moment. The forward pass is compiled once. Model,
    optimizer and random state are left as they are.

    A store is named by its step: how often the weights had been updated
    (`model.optimizer.iterations`). Where a `train_step` of the model's own leaves that
    optimizer alone, batches are counted. A later `fit` goes on after the steps that are
    there. So does a training that was killed and that
    `keras.callbacks.BackupAndRestore` restores: steps after the restored one are
    recorded again.

    Wrong arguments raise before the first batch. A later error, such as a full disk,
    does not end the training. The step is missed, the first time with a warning, and
    `missed` of the recording says why.

    Args:
        x: The data to record, as `layertap.save` accepts them. They are read at each
            step; an iterator, which can be read only once, is refused.
        path: The folder of the recording. Only one training at a time may use it.
        save_freq: `"epoch"`, or a number of batches.
        before: See `layertap.plan`.
        outputs: See `layertap.plan`.
        joins: See `layertap.plan`.
        batch_size: See `layertap.save`.
        dtype: See `layertap.plan`.
        reduce: See `layertap.plan`.
        pad: See `layertap.save`.
        compression: See `layertap.save`.
        labels: See `layertap.save`.
        ids: See `layertap.save`.
        for_head: See `layertap.plan`.
        gradients: See `layertap.save`.
        attributions: See `layertap.save`.
        baseline: See `layertap.save`.
        steps: See `layertap.save`.
        overwrite: Whether to delete steps of a finished training that are later than
            the model's.

    Warns:
        PartialWarning: If a step could not be recorded.

    Raises:
        OptionError: If an argument is invalid.
        OtherRunError: At the beginning of `fit`, if the folder has later steps of a
            training that has finished.
        LayertapError: There, too, for what `layertap.save` would refuse.

    Example:
    ```python
    recorder = layertap.Recorder(x[:500], "run", before="fusion")
    model.fit(x, y, epochs=10, callbacks=[recorder])
    print(recorder.recording)
    ```
    """

    def __init__(
        self,
        x: Any,
        path: str | os.PathLike[str],
        *,
        save_freq: int | Literal["epoch"] = "epoch",
        before: str | Sequence[str] | None = None,
        outputs: str | Sequence[str] | None = None,
        joins: Kind | Sequence[Kind] = ("concatenate",),
        batch_size: int | None = None,
        dtype: Dtype | None = None,
        reduce: Reduce = None,
        pad: Pad | None = None,
        compression: Literal["zstd"] | None = None,
        labels: str | None = None,
        ids: Any = None,
        for_head: bool = False,
        gradients: Of | None = None,
        attributions: Of | None = None,
        baseline: Baseline = "zero",
        steps: int | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        if "://" in os.fspath(path):
            raise OptionError(
                f"A recording can't be made at {os.fspath(path)!r}. Expected a folder."
            )
        if save_freq != "epoch":
            check_number("`save_freq`", save_freq, 1)
        self.save_freq = save_freq
        self.overwrite = overwrite
        # A program may change its folder while it trains.
        self._folder = Path(path).absolute()
        self._data = {"data": x, "batch_size": batch_size, "labels": labels, "ids": ids}
        effects = derivatives(gradients, attributions, baseline, steps)
        self._selection = Selection(
            *(before, outputs, joins, for_head, Reduction(dtype, reduce), pad, effects)
        )
        # A store of the same step is that of a training that was killed there.
        self._options = StoreOptions(compression, overwrite=True)
        self._manifest = Manifest()
        # The optimizer's updates when `fit` began, and the batches seen since, too.
        self._first = self._seen = 0
        self._epoch = self._batch = 0
        self._begun = self._warned = False

    @property
    def recording(self) -> Recording:
        """The steps that were recorded so far."""
        return Recording(self._folder)

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes that a training begins; other callbacks may restore its weights."""
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Checks the arguments and the folder before the first batch."""
        self._epoch, self._batch = epoch, 0
        if not self._begun:
            self._begin()
            self._begun = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Records a step if enough batches were trained on."""
        # With `steps_per_execution`, several batches end at once.
        before, self._seen = self._seen, self._seen + batch + 1 - self._batch
        self._batch = batch + 1
        if self.save_freq != "epoch" and (
            self._seen // self.save_freq > before // self.save_freq
        ):
            self._record(self._epoch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Records a step, unless batches decide."""
        if self.save_freq == "epoch":
            self._record(epoch + 1, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Notes that the training has ended."""
        self._manifest.finished = True
        self._write_manifest()

    def _begin(self) -> None:
        self._run()
        resumed = self._open_folder()
        self._first = self._seen = _iterations(self.model)
        if self._manifest.by_batches:
            self._seen = max(steps_in(self._folder), default=0)
            return
        self._remove_steps_after(self._first)
        if resumed and self._lacks_step():
            self._record(self._epoch, {})

    def _lacks_step(self) -> bool:
        """Whether a kill after a backup of the weights kept their step from the store.

        Weights that were backed up within an epoch are not those of its end.
        """
        moments, step = self._manifest.moments, self._first
        if not step or step in moments or step in self._manifest.missed:
            return False
        if self.save_freq != "epoch":
            return step % self.save_freq == 0
        last = moments[max(moments)].epoch if moments else 0
        return last != self._epoch > 0

    def _open_folder(self) -> bool:
        """Opens or makes the folder; returns whether its training was not finished."""
        folder = self._folder
        if is_recording(folder):
            self._manifest = Manifest.read(folder)
            return not self._manifest.finished
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise NotAStoreError(
                f"{folder} is not a recording. Expected one, or an empty or new folder."
            )
        self._manifest = Manifest()
        self._manifest.write(folder)
        return False

    def _remove_steps_after(self, step: int) -> None:
        manifest = self._manifest
        later = [other for other in steps_in(self._folder) if other > step]
        if later and manifest.finished and not self.overwrite:
            raise OtherRunError(
                f"{self._folder} has a finished training, with steps up to "
                f"{later[-1]:,}, but the model is at step {step:,}. Nothing was "
                "changed. Record to another path, or pass overwrite=True to delete "
                "the later steps."
            )
        for steps in (manifest.moments, manifest.missed):
            for other in [other for other in steps if other > step]:
                del steps[other]
        manifest.finished = False
        manifest.write(self._folder)
        for other in later:
            remove(store_of(self._folder, other))

    def _run(self) -> Run:
        """Plans the save of the values with the weights of now."""
        # On JAX, `fit` has the weights; this property returns them to the model.
        model = self.model
        feed = Feed(specs=input_specs(model), **self._data)
        if not feed.again:
            raise OptionError(
                "An iterator can't be recorded: it can be read only once. Pass data "
                "that can be read again, such as arrays."
            )
        return planned_run(model, feed.watched(), self._selection)

    def _step(self) -> int:
        """Returns the step that the model is at."""
        iterations = _iterations(self.model)
        if iterations == self._first and self._seen > self._first:
            self._manifest.by_batches = True
        return self._seen if self._manifest.by_batches else iterations

    def _record(self, epoch: int, logs: Mapping[str, Any] | None) -> None:
        """Saves a step; whatever goes wrong does not end the training."""
        step, manifest = self._seen, self._manifest
        try:
            step = self._step()
            store = store_of(self._folder, step)
            save_run(self._run(), store, self._options, Progress())
            known = {name: float(number) for name, number in (logs or {}).items()}
            manifest.moments[step] = Moment(epoch, known)
            manifest.missed.pop(step, None)
            manifest.write(self._folder)
        except Exception as error:  # The data and the disk are the user's.
            self._miss(step, error)

    def _miss(self, step: int, error: Exception) -> None:
        """Notes a step that could not be recorded."""
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        complete = step in self._manifest.moments
        if not complete:
            self._manifest.missed[step] = why
            with suppress(LayertapError, OSError):
                remove(store_of(self._folder, step))
        self._write_manifest()
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Step {step:,} could not be recorded in {self._folder}: {why} The "
                "training goes on; `missed` of the recording has later steps, too.",
                PartialWarning,
                stacklevel=2,
            )

    def _write_manifest(self) -> None:
        """Writes the manifest if possible; the next step writes it again."""
        with suppress(LayertapError, OSError):
            self._manifest.write(self._folder)


def _iterations(model: keras.Model) -> int:
    """Returns how often the optimizer of a model has updated its weights."""
    optimizer = getattr(model, "optimizer", None)
    # Before Keras 3.9, one that scales the loss does not count itself.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None:
        return 0
    return int(keras.ops.convert_to_numpy(optimizer.iterations))
