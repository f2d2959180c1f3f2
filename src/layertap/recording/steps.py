"""The folder of a recording, as its recorder writes one step after the other."""

import warnings
from contextlib import suppress
from pathlib import Path

from layertap.core import text
from layertap.errors import (
    LayertapError,
    NotAStoreError,
    OtherRunError,
    PartialWarning,
    StoreError,
)
from layertap.recording.manifest import (
    Manifest,
    Moment,
    is_recording,
    steps_in,
    store_of,
)
from layertap.store.location import exists, remove


class Steps:
    """The steps of a training in a folder, and the manifest that lists them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest()

    def open(self) -> bool:
        """Opens or makes the folder; returns whether its training has not finished."""
        if is_recording(self.folder):
            self.manifest = Manifest.read(self.folder)
            return not self.manifest.finished
        folder = self.folder
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise NotAStoreError(
                f"{folder} is not a recording. Expected one, or an empty or new folder."
            )
        self.manifest = Manifest()
        self.manifest.write(folder)
        return False

    def continue_after(self, step: int, *, overwrite: bool) -> None:
        """Deletes later steps than the model's: they are of a past that was lost."""
        manifest = self.manifest
        later = [other for other in steps_in(self.folder) if other > step]
        if later and manifest.finished and not overwrite:
            raise OtherRunError(
                f"{self.folder} has a finished training, with steps up to "
                f"{later[-1]:,}, but the model is at step {step:,}. Nothing was "
                "changed. Record to another path, or pass overwrite=True to delete "
                "the later steps."
            )
        if later and not manifest.finished and not step:
            warnings.warn(
                f"{self.folder} has {text.counted(len(later), 'step')} of a training "
                "that did not end. The model is new, so they are deleted.",
                PartialWarning,
                stacklevel=2,
            )
        for steps in (manifest.moments, manifest.missed):
            for other in [other for other in steps if other > step]:
                del steps[other]
        manifest.finished = False
        manifest.write(self.folder)
        for other in later:
            self._remove(other)

    def batches_before(self, epoch: int, per_epoch: int | None) -> int:
        """Returns the step at which an epoch begins, where steps count batches."""
        manifest, last = self.manifest, max(steps_in(self.folder), default=0)
        if manifest.finished:
            # Another `fit` counts on.
            manifest.offset = last
        if per_epoch is not None:
            return manifest.offset + epoch * per_epoch
        ended = [s for s, moment in manifest.moments.items() if moment.epoch <= epoch]
        return max([manifest.offset, *ended])

    def store(self, step: int) -> Path:
        """Returns the path for the store of a step."""
        path = store_of(self.folder, step)
        if path.is_symlink():
            raise StoreError(
                f"{path} is a link. Expected a store, or nothing. Move the link away."
            )
        return path

    def complete(self, step: int, moment: Moment) -> None:
        """Notes a step whose store is complete."""
        self.manifest.moments[step] = moment
        self.manifest.missed.pop(step, None)
        self.manifest.write(self.folder)

    def miss(self, step: int, why: str) -> None:
        """Notes a step that could not be recorded, and removes its parts."""
        if step not in self.manifest.moments:
            self.manifest.missed[step] = why
            with suppress(LayertapError, OSError):
                self._remove(step)
        self.write()

    def finish(self) -> None:
        """Notes that the training has ended."""
        self.manifest.finished = True
        self.write()

    def write(self) -> None:
        """Writes the manifest if possible; the next step writes it again."""
        with suppress(LayertapError, OSError):
            self.manifest.write(self.folder)

    def _remove(self, step: int) -> None:
        path = store_of(self.folder, step)
        if path.is_symlink():
            # Whatever it leads to is somebody's own.
            path.unlink()
        elif exists(path):
            remove(path)
