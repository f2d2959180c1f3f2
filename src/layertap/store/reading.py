"""Which way the shards of an array are read: from files, or from objects."""

from layertap.store.held import Held
from layertap.store.layout import ArrayLayout
from layertap.store.object_shards import ObjectShards
from layertap.store.objects import Location, ObjectPath
from layertap.store.shards import Shards


def shards_of(path: Location, layout: ArrayLayout, held: Held) -> Shards | ObjectShards:
    """Returns the shards of an array, to be read.

    Args:
        path: The store.
        layout: The array.
        held: Where files are held open.
    """
    if isinstance(path, ObjectPath):
        return ObjectShards(path, layout)
    return Shards(path, layout, held)
