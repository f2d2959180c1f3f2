"""A store as a `grain.MapDataset`."""

from typing import Any

from layertap.core.optional import require
from layertap.results.training.batches import Batches

grain = require("grain", "grain", "`Saved.grain`")
MapDataset: Any = grain.MapDataset


class GrainDataset(MapDataset):
    """Batches of saved values; see `Saved.grain`."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        if index < 0:
            index = range(len(self))[index]
        # After the last batch, grain counts on: `repeat` reads another epoch there.
        epoch, number = divmod(index, len(self))
        return self._batches.batch(number, epoch)
