"""Which way the shards of an array are read: from files, or from objects."""

from collections.abc import Callable, Mapping

from layertap.store.format.layout import ArrayLayout
from layertap.store.reading.local_shards import ShardCache, Shards
from layertap.store.reading.object_shards import ObjectShards
from layertap.store.storage.base import Storage
from layertap.store.storage.files import LocalStorage
from layertap.store.storage.objects import ObjectStorage


def shards_of(
    storage: Storage, layout: ArrayLayout, held: ShardCache
) -> Shards | ObjectShards:
    """Returns the shards of an array, to be read.

    Args:
        storage: The files of the store.
        layout: The array.
        held: Where files are held open.
    """
    return _SHARDS[type(storage)](storage, layout, held)


_SHARDS: Mapping[type[Storage], Callable[..., Shards | ObjectShards]] = {
    LocalStorage: Shards,
    ObjectStorage: ObjectShards,
}
