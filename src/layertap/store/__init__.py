"""A store: named arrays of rows on disk, in Zarr v3, written so that no crash hurts.

Knows nothing of Keras, of plans, of models.
"""

from layertap.store.format.layout import ArraySpec as ArraySpec
from layertap.store.format.sizing import DEFAULT_MEMORY as DEFAULT_MEMORY
from layertap.store.location import exists as exists
from layertap.store.location import remove as remove
from layertap.store.reading.array import LazyArray as LazyArray
from layertap.store.reading.reader import Reader as Reader
from layertap.store.writing.base import Reopening as Reopening
from layertap.store.writing.block_worker import BlockWorker as BlockWorker
from layertap.store.writing.block_worker import Claim as Claim
from layertap.store.writing.blocks import Observer as Observer
from layertap.store.writing.clean import clean as clean
from layertap.store.writing.shared_writer import SharedWriter as SharedWriter
from layertap.store.writing.writer import Writer as Writer
