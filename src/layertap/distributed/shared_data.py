"""Data that each worker opens by itself, and reads from any row on.

Neither Keras nor Ray is imported at first: a worker unpickles shared data before it
knows Keras' backend.
"""

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap.distributed.ray_arrays import RayArray, dataset_columns, put_array
from layertap.errors import DataTypeError

if TYPE_CHECKING:
    from layertap.inputs.feed import Feed


@dataclass(frozen=True)
class SharedData:
    """Data for many workers, to be sent by Ray.

    Whoever shares them must keep them: Ray's store drops objects with their owner.
    """

    # Opens the data in a worker, for a model.
    opener: Callable[[Any], Any]
    labels: str | None = None
    ids: Any = None

    def open(self, model: Any, batch_size: int | None = None) -> "Feed":
        """Opens the data in batches for a model, to be read from any row on."""
        from layertap.inputs.feed import Feed
        from layertap.tracing.model_structure import input_specs

        return Feed(
            self.opener(model),
            input_specs(model),
            batch_size,
            anywhere=True,
            labels=self.labels,
            ids=self.ids,
        )


def share(data: Any, ids: Any = None, labels: str | None = None) -> SharedData:
    """Makes data ready to be opened by many workers.

    Workers open paths and callables by themselves. Arrays go into Ray's object store.
    Each worker gets a copy of a `keras.utils.PyDataset`. A `ray.data.Dataset` is
    computed; its columns are the inputs by name, `labels`, `sample_weight` and `ids`.
    """
    import keras

    from layertap.inputs.feed import check_ids
    from layertap.inputs.sources import is_ray_dataset

    columns = [name for name in (labels, ids) if isinstance(name, str)]
    if ids is not None and not isinstance(ids, str):
        ids = put_array(check_ids(np.asarray(ids), None))
    if isinstance(data, str | os.PathLike):
        # A path does not depend on the working directory of a worker.
        path = Path(data)
        source = str(path.absolute()) if path.exists() else os.fspath(data)
        opener = partial(_open_path, source, columns)
    elif is_ray_dataset(data):
        opener = partial(_open_columns, dataset_columns(data))
    elif isinstance(data, keras.utils.PyDataset):
        opener = partial(_open_dataset, _share_dataset(data))
    else:
        opener = partial(_open_arrays, _share_arrays(data))
    return SharedData(opener, labels, ids)


def _open_path(source: str, columns: Any, model: Any) -> Any:
    from layertap.inputs.data_file import load_data
    from layertap.inputs.sources import check_no_stream, is_ray_dataset
    from layertap.tracing.model_structure import input_specs

    data = load_data(source, input_specs(model), columns)
    if is_ray_dataset(data):
        raise DataTypeError(
            f"{source} returned a ray.data.Dataset, another one to each worker. Pass "
            "the data set itself."
        )
    check_no_stream(data)
    return data


def _open_columns(columns: Mapping[str, RayArray], model: Any) -> Any:
    from layertap.inputs.columns import Table

    table = Table(columns)
    table.any_name = True
    return table


def _open_dataset(pickled: Any, model: Any) -> Any:
    import ray

    # Each worker has a copy: a data set may write to its own arrays.
    return pickle.loads(ray.get(pickled))


def _open_arrays(structure: Any, model: Any) -> Any:
    return structure


def _share_arrays(data: Any) -> Any:
    """Puts a structure of arrays into Ray's object store."""
    import keras

    from layertap.inputs.columns import Table, as_table
    from layertap.inputs.convert import sliceable, text_arrays
    from layertap.inputs.lazy_array import LazyRows
    from layertap.inputs.sources import check_arrays, check_no_stream

    data = as_table(data)
    check_no_stream(data)
    data = text_arrays(data)
    if not isinstance(data, Table):
        check_arrays(data)

    def put(leaf: Any, *, is_input: bool = False) -> Any:
        if isinstance(leaf, LazyRows):
            # Workers read the files by themselves.
            return leaf
        array = sliceable(leaf, is_input=is_input)
        return None if array is None else put_array(array)

    if isinstance(data, Table):
        return type(data)({name: put(column) for name, column in data.items()})
    # Others may be labels. Inputs get a last axis of size 1 when converted.
    x, *others = data if isinstance(data, tuple) else (data,)
    may_have_labels = isinstance(x, Mapping)
    x = keras.tree.map_structure(partial(put, is_input=not may_have_labels), x)
    others = [keras.tree.map_structure(put, part) for part in others]
    return (x, *others) if isinstance(data, tuple) else x


def _share_dataset(data: Any) -> Any:
    """Puts a pickled `keras.utils.PyDataset` into Ray's object store."""
    import ray
    from ray import cloudpickle

    from layertap.inputs.sources import check_end

    check_end(data)
    try:
        pickled = cloudpickle.dumps(data)
    except Exception as error:  # Members of the data set raise any errors.
        raise DataTypeError(
            f"{type(data).__name__} can't be sent to workers: {error}. Open files and "
            "connections in its __getitem__, or pass package.module:callable, which "
            "each worker calls."
        ) from error
    return ray.put(np.frombuffer(pickled, np.uint8))
