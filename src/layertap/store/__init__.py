"""A store: named arrays of rows on disk, in Zarr v3, written so that no crash hurts.

Knows nothing of Keras, of plans, of models.
"""

from layertap.store.blocks import Observer
from layertap.store.contributing import Claim, Contributor
from layertap.store.layout import ArraySpec
from layertap.store.places import exists, remove
from layertap.store.reader import LazyArray, Member, Reader
from layertap.store.scattered import SharedWriter
from layertap.store.sizes import DEFAULT_MEMORY
from layertap.store.writer import Writer

__all__ = [
    "DEFAULT_MEMORY",
    "ArraySpec",
    "Claim",
    "Contributor",
    "LazyArray",
    "Member",
    "Observer",
    "Reader",
    "SharedWriter",
    "Writer",
    "exists",
    "remove",
]
