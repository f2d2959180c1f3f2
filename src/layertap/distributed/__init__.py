"""Saves by many workers on Ray: `layertap.distributed.save`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layertap.distributed.driver import save as save

__all__ = ["save"]


def __getattr__(name: str) -> Any:
    # On first use: a worker chooses Keras' backend before it imports Keras.
    if name != "save":
        raise AttributeError(f"module 'layertap.distributed' has no attribute {name!r}")
    from layertap.distributed import driver

    return driver.save
