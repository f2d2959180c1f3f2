"""A store as a `keras.utils.PyDataset`."""

from typing import Any

# First, for it says what to do where Keras lacks its backend.
from layertap import tracing  # noqa: F401

import keras  # isort: skip

from layertap.results.training.batches import Batches


class SavedDataset(keras.utils.PyDataset):
    """Batches of saved values, as `Saved.dataset` describes them.

    Args:
        batches: The batches.
        options: What `keras.utils.PyDataset` takes.

    Attributes:
        epoch: Which of the random orders is gone through. It goes up by one at the
            end of each epoch; set it to go on with a training that was stopped.
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
        """Goes on to the next random order."""
        self.epoch += 1
