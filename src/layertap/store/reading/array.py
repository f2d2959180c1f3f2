"""Which way the shards of an array are read: from files, or from objects."""

from layertap.store.format.layout import ArrayLayout
from layertap.store.reading.local_shards import ShardCache, Shards
from layertap.store.reading.object_shards import ObjectShards
from layertap.store.storage.objects import Location, ObjectPath


def shards_of(
    path: Location, layout: ArrayLayout, held: ShardCache
) -> Shards | ObjectShards:
    """Returns the shards of an array, to be read.

    Args:
        path: The store.
        layout: The array.
        held: Where files are held open.
    """
    if isinstance(path, ObjectPath):
        return ObjectShards(path, layout)
    return Shards(path, layout, held)
