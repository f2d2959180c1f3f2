"""A store: named arrays of rows on disk, in Zarr v3, written so that no crash hurts.

Knows nothing of Keras, of plans, of models.
"""

from layertap.store.format.layout import ArraySpec
from layertap.store.format.sizing import DEFAULT_MEMORY
from layertap.store.location import exists, remove
from layertap.store.reading.array import LazyArray
from layertap.store.reading.reader import Member, Reader
from layertap.store.writing.block_worker import BlockWorker, Claim
from layertap.store.writing.blocks import Observer
from layertap.store.writing.shared_writer import SharedWriter
from layertap.store.writing.writer import Writer

__all__ = [
    "DEFAULT_MEMORY",
    "ArraySpec",
    "BlockWorker",
    "Claim",
    "LazyArray",
    "Member",
    "Observer",
    "Reader",
    "SharedWriter",
    "Writer",
    "exists",
    "remove",
]
