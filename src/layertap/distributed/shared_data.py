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
from typing import Any

import numpy as np

from layertap.distributed.ray_arrays import RayArray, dataset_columns, put_array
from layertap.errors import DataError, DataTypeError
from layertap.inputs.lazy_array import Data


@dataclass(frozen=True)
class SharedData:
    """Data for many workers, to be sent by Ray.

    Whoever shares them must keep them: Ray's store drops objects with their owner.
    """

    # Opens the data in a worker, for a model.
    opener: Callable[[Any], Data]
    ids: Any = None

    def open(self, model: Any) -> Data:
        """Opens the data, and the ids of their rows, for `Feed(…, anywhere=True)`."""
        data = self.opener(model)
        return data if self.ids is None else data._replace(ids=self.ids)


def share(data: Any, ids: Any = None) -> SharedData:
    """Makes data ready to be opened by many workers.

    Workers open paths and callables by themselves. Arrays go into Ray's object store.
    Each worker gets a copy of a `keras.utils.PyDataset`. A `ray.data.Dataset` is
    computed, and its columns are inputs, `labels`, `sample_weight` and `ids`.
    """
    import keras

    from layertap.inputs.sources import is_ray_dataset

    if ids is not None:
        ids = np.asarray(ids)
        if ids.ndim != 1:
            raise DataError(
                "`ids` does not have one integer or string for each row. Expected "
                f"shape (rows,). Received shape {ids.shape}."
            )
        ids = put_array(ids)
    if isinstance(data, str | os.PathLike):
        # A path does not depend on the working directory of a worker.
        path = Path(data)
        source = str(path.absolute()) if path.exists() else os.fspath(data)
        opener = partial(_open_path, source)
    elif is_ray_dataset(data):
        opener = partial(_open_columns, dataset_columns(data))
    elif isinstance(data, keras.utils.PyDataset):
        opener = partial(_open_dataset, _share_dataset(data))
    else:
        opener = partial(_open_arrays, _share_arrays(data))
    return SharedData(opener, ids)


def _open_path(source: str, model: Any) -> Data:
    from layertap.inputs.data_file import load_data
    from layertap.inputs.sources import check_no_stream, is_ray_dataset

    loaded = load_data(source, model)
    if is_ray_dataset(loaded.data):
        raise DataTypeError(
            f"{source} returned a ray.data.Dataset, another one to each worker. Pass "
            "the data set itself."
        )
    check_no_stream(loaded.data)
    return loaded


def _open_columns(columns: Mapping[str, RayArray], model: Any) -> Data:
    from layertap.inputs.data_file import data_from_columns

    return data_from_columns(columns, model, "The ray.data.Dataset", any_name=True)


def _open_dataset(pickled: Any, model: Any) -> Data:
    import ray

    # Each worker has a copy: a data set may write to its own arrays.
    return Data(pickle.loads(ray.get(pickled)))


def _open_arrays(structure: Any, model: Any) -> Data:
    return Data(structure)


def _share_arrays(data: Any) -> Any:
    """Puts a structure of arrays into Ray's object store."""
    import keras

    from layertap.inputs.convert import sliceable
    from layertap.inputs.sources import check_arrays, check_no_stream

    check_no_stream(data)
    check_arrays(data)

    def put(leaf: Any, *, is_input: bool = False) -> Any:
        array = sliceable(leaf, is_input=is_input)
        return None if array is None else put_array(array)

    # Further members may be labels. Inputs get a last axis of size 1 when converted.
    x, *others = data if isinstance(data, tuple) else (data,)
    x = keras.tree.map_structure(partial(put, is_input=True), x)
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
