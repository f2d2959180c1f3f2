"""Data that many can open: handed out once, opened by each worker, read from any row.

Neither Keras nor Ray is imported before it is needed: a worker unpickles what is shared
before it knows Keras' backend.
"""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from layertap.distributed import ray_arrays
from layertap.distributed.ray_columns import columns_of
from layertap.errors import DataError, DataTypeError

if TYPE_CHECKING:
    from layertap.inputs.data_file import Data


class _Form(Protocol):
    """One way in which data go to a worker."""

    def open(self, model: Any) -> "Data":
        """Opens them there."""


@dataclass(frozen=True)
class Shared:
    """Data for many workers, to be sent to them by Ray.

    Whoever made it has to keep it while others use it: Ray lets go of what is in its
    store with the process that put it there.

    Args:
        form: How the data go to a worker.
        ids: The ids that were given beside, or None.
    """

    form: _Form
    ids: Any = None

    def open(self, model: Any) -> "Data":
        """Opens the data, in this process; almost nothing is read.

        Args:
            model: The model that takes them.

        Returns:
            What `feed.Feed(…, anywhere=True)` takes, and the ids of the rows: those
            that were given, or those that the data bring along.

        Raises:
            DataError: If there are no such data, or they don't fit the model.
            DataTypeError: If they turn out to be a stream.
        """
        found = self.form.open(model)
        return found if self.ids is None else found._replace(ids=self.ids)


def share(data: Any, ids: Any = None) -> Shared:
    """Makes data ready to be opened by many.

    Args:
        data: The path of anything that the command line takes, or
            `package.module:callable`: each worker opens it. Arrays and structures of
            them go into Ray's object store in pieces. Of a `keras.utils.PyDataset`
            each worker gets its own. A `ray.data.Dataset` is computed, its columns
            are the inputs by name; `labels`, `sample_weight` and `ids` are what they
            are called.
        ids: One integer or string for each row, or None.

    Raises:
        DataTypeError: If they can't be read from any row on.
        DataError: If a data set of Ray has columns of which rows differ in form.
    """
    from layertap.inputs.sources import is_indexed, is_ray_dataset

    shared_ids = None if ids is None else _put_ids(ids)
    if isinstance(data, str | os.PathLike):
        form: _Form = _Source(_from_anywhere(os.fspath(data)))
    elif is_ray_dataset(data):
        form = _Columns(columns_of(data))
    elif is_indexed(data):
        form = _dataset(data)
    else:
        form = _arrays(data)
    return Shared(form, shared_ids)


@dataclass(frozen=True)
class _Source:
    """A path, or the name of a callable: each worker opens it by itself."""

    source: str

    def open(self, model: Any) -> "Data":
        from layertap.inputs.data_file import load_data
        from layertap.inputs.sources import check_no_stream, is_ray_dataset

        found = load_data(self.source, model)
        if is_ray_dataset(found.data):
            raise DataTypeError(
                f"{self.source} gave a ray.data.Dataset, to each worker one of its "
                "own. Pass the data set itself."
            )
        check_no_stream(found.data)
        return found


@dataclass(frozen=True)
class _Arrays:
    """A structure of arrays, of which each leaf is in pieces."""

    structure: Any

    def open(self, model: Any) -> "Data":
        from layertap.inputs.data_file import Data

        return Data(self.structure)


@dataclass(frozen=True)
class _Dataset:
    """A `keras.utils.PyDataset`, pickled."""

    pickled: Any

    def open(self, model: Any) -> "Data":
        import ray

        from layertap.inputs.data_file import Data

        # Each has a copy: a data set may write to what it holds.
        return Data(pickle.loads(ray.get(self.pickled)))


@dataclass(frozen=True)
class _Columns:
    """Columns of a `ray.data.Dataset`, each in the pieces that Ray cut."""

    columns: Mapping[str, ray_arrays.Pieces]

    def open(self, model: Any) -> "Data":
        from layertap.inputs.data_file import data_from_columns

        return data_from_columns(
            self.columns, model, "The ray.data.Dataset", any_name=True
        )


def _from_anywhere(source: str) -> str:
    """Returns a path such that it does not depend on the folder of a process."""
    path = Path(source)
    return str(path.absolute()) if path.exists() else source


def _put_ids(ids: Any) -> ray_arrays.Pieces:
    array = np.asarray(ids)
    if array.ndim != 1:
        raise DataError(
            "`ids` needs one integer or string for each row; found shape "
            f"{array.shape}."
        )
    return ray_arrays.put(array)


def _arrays(data: Any) -> _Arrays:
    import keras

    from layertap.inputs.convert import sliceable
    from layertap.inputs.sources import check_arrays, check_no_stream

    check_no_stream(data)
    check_arrays(data)

    def put(leaf: Any, *, is_input: bool = False) -> Any:
        if leaf is None:
            return None
        return ray_arrays.put(sliceable(leaf, is_input=is_input))

    # Further members may be labels. Inputs get a last axis of size 1 when converted.
    x, *others = data if isinstance(data, tuple) else (data,)
    x = keras.tree.map_structure(partial(put, is_input=True), x)
    others = [keras.tree.map_structure(put, part) for part in others]
    return _Arrays((x, *others) if isinstance(data, tuple) else x)


def _dataset(data: Any) -> _Dataset:
    import ray
    from ray import cloudpickle

    from layertap.inputs.sources import check_end

    check_end(data)
    try:
        pickled = cloudpickle.dumps(data)
    except Exception as error:  # Whatever it holds may refuse in its own words.
        raise DataTypeError(
            f"{type(data).__name__} can't be sent to workers: {error}. Open files and "
            "connections in its __getitem__, or pass package.module:callable, which "
            "each worker calls."
        ) from error
    return _Dataset(ray.put(np.frombuffer(pickled, np.uint8)))
