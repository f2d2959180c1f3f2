"""A Keras callback that records the values of some data during training."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from layertap.core.progress import Progress
from layertap.effects.derivatives import Baseline, derivatives
from layertap.effects.target import Of
from layertap.errors import OptionError, PartialWarning, check_number
from layertap.inputs.feed import Feed
from layertap.pipeline.run import Run, planned_run
from layertap.pipeline.save import save_run
from layertap.pipeline.schema import StoreOptions, store_schema
from layertap.planning.join_filter import Kind
from layertap.planning.padding import Pad
from layertap.planning.reduction import Dtype, Reduce, Reduction
from layertap.planning.selection import Selection
from layertap.recording.manifest import Moment, numbers_of
from layertap.recording.random_state import same_random_numbers
from layertap.recording.recording import Recording
from layertap.recording.steps import Steps
from layertap.store.writing.writer import Writer
from layertap.tracing.model_structure import input_specs


class Recorder(keras.callbacks.Callback):
    """Records the values of some data during `fit`: a store for each step.

    At the end of every epoch, or after every n batches, it writes the store that
    `layertap.save` writes with the weights of that moment. The forward pass is compiled
    once. Model, optimizer and random state do not change.

    A store is named by its step: the number of weight updates so far
    (`model.optimizer.iterations`). If the model's own `train_step` does not use that
    optimizer, batches are counted. A later `fit` continues after the existing steps. So
    does a killed training that `keras.callbacks.BackupAndRestore` restores: steps after
    the restored one are recorded again.

    Wrong arguments raise before the first batch. A later error, such as a full disk,
    does not end the training. The step is skipped, the first time with a warning, and
    `missed` of the recording has the reason.

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
        if not isinstance(path, str | os.PathLike) or "://" in os.fspath(path):
            raise OptionError(
                f"A recording can't be made at {path!r}. Expected the path of a folder."
            )
        if save_freq != "epoch":
            check_number("`save_freq`", save_freq, 1)
        self.save_freq = save_freq
        self.overwrite = overwrite
        # A program may change its folder while it trains.
        self._steps = Steps(Path(path).absolute())
        self._data = {"data": x, "batch_size": batch_size, "labels": labels, "ids": ids}
        effects = derivatives(gradients, attributions, baseline, steps)
        self._selection = Selection(
            *(before, outputs, joins, for_head, Reduction(dtype, reduce), pad, effects)
        )
        # A store of the same step is that of a training that was killed there.
        self._options = StoreOptions(compression, overwrite=True)
        # The optimizer's updates when `fit` began, and the batches seen since, too.
        self._optimizer: Any = None
        self._first = self._seen = 0
        self._epoch = self._batch = 0
        self._begun = self._warned = False

    @property
    def recording(self) -> Recording:
        """The steps that were recorded so far."""
        return Recording(self._steps.folder)

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes that a training begins; other callbacks may restore its weights."""
        self._begun = self._warned = False

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
        if self._begun:
            self._steps.finish()

    def _begin(self) -> None:
        """Checks everything that a save would refuse, and finds the model's step."""
        with same_random_numbers():
            Writer.check(*store_schema(self._run()), **self._options.layout)
        resumed = self._steps.open()
        self._optimizer = self.model.optimizer
        self._first = self._seen = _iterations(self.model)
        if self._steps.manifest.by_batches and self._trains_itself():
            per_epoch = (self.params or {}).get("steps")
            self._seen = self._steps.batches_before(self._epoch, per_epoch)
        self._steps.continue_after(self._seen, overwrite=self.overwrite)
        if resumed and self._lacks_step():
            self._record(self._epoch, {})

    def _lacks_step(self) -> bool:
        """Whether a kill after a backup of the weights kept their step from the store.

        Weights that were backed up within an epoch are not those of its end.
        """
        manifest, step = self._steps.manifest, self._seen
        moments = manifest.moments
        if not step or step in moments or step in manifest.missed:
            return False
        if self.save_freq != "epoch":
            return step % self.save_freq == 0
        last = moments[max(moments)].epoch if moments else 0
        return last != self._epoch > 0

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

    def _trains_itself(self) -> bool:
        """Whether the model has a `train_step` that is not Keras' own."""
        return not type(self.model).train_step.__module__.startswith("keras.")

    def _step(self) -> int:
        """Returns the step that the model is at."""
        iterations, manifest = _iterations(self.model), self._steps.manifest
        if iterations == self._first and self._trains_itself():
            manifest.by_batches = True
            return self._seen
        if self.model.optimizer is not self._optimizer:
            raise OptionError(
                f"The optimizer was replaced, and is at step {iterations:,} again. "
                "Expected the one with which `fit` began, which counts on."
            )
        return iterations

    def _record(self, epoch: int, logs: Mapping[str, Any] | None) -> None:
        """Saves a step; whatever goes wrong does not end the training."""
        step = self._seen
        try:
            with same_random_numbers():
                step = self._step()
                store = self._steps.store(step)
                save_run(self._run(), store, self._options, Progress())
                self._steps.complete(step, Moment(epoch, numbers_of(logs or {})))
        except Exception as error:  # The data and the disk are the user's.
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._steps.miss(step, why)
            self._warn(step, why)

    def _warn(self, step: int, why: str) -> None:
        """Warns once in each training."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Step {step:,} could not be recorded in {self._steps.folder}: {why} "
                "The training goes on; `missed` of the recording has later steps, too.",
                PartialWarning,
                stacklevel=4,
            )


def _iterations(model: keras.Model) -> int:
    """Returns how often the optimizer of a model has updated its weights."""
    optimizer = getattr(model, "optimizer", None)
    # Before Keras 3.9, one that scales the loss does not count itself.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None:
        return 0
    return int(keras.ops.convert_to_numpy(optimizer.iterations))
