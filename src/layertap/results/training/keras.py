"""A store as a `keras.utils.PyDataset`."""

from typing import Any

from layertap.core.optional import require_keras
from layertap.results.training.batches import Batches

PyDataset: Any = require_keras().utils.PyDataset


class SavedDataset(PyDataset):
    """Batches of saved values; see `Saved.dataset`.

    Attributes:
        epoch: The number of the random order, one higher at the end of each epoch. Set
            it to resume a training that was stopped.
    """

    def __init__(self, batches: Batches, **options: Any) -> None:
        super().__init__(**options)
        self._batches = batches
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._batches.batch(index, self.epoch)

    def on_epoch_end(self) -> None:
        """Moves on to the next random order."""
        self.epoch += 1
