"""Fingerprints: two runs are the same if these are equal."""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from layertap.core.plan import Plan
from layertap.tracing.backends import current_backend
from layertap.tracing.collect import VERSIONS
from layertap.tracing.keras_internals import without_importing_tensorflow
from layertap.tracing.model_structure import layers_of, learned
from layertap.tracing.reuse.function_fingerprint import configuration, digest
from layertap.tracing.reuse.memo import remembered


def run_identity(
    model: keras.Model, plan: Plan, batch_size: int | None
) -> dict[str, str | int | None]:
    """Describes a run by everything that affects its values, short enough to show.

    Two runs may differ in their batch size, which affects rounding alone.
    """
    values = [*plan.values, *plan.derived]
    planned = [(v.address, v.shape, v.dtype, v.alias_of) for v in values]
    chosen = {
        "gradients": plan.gradients_of,
        "attributions": plan.attributions_of,
        "baseline": plan.baseline,
        "steps": plan.steps,
    }
    # Stores without gradients have no such keys.
    effects = {name: part for name, part in chosen.items() if part is not None}
    return {
        "weights": _weights_digest(model),
        "configuration": configuration_digest(model),
        "dtype": plan.dtype,
        "reduce": plan.reduce,
        "pad": _padding_summary(plan),
        "plan": digest([*planned, *plan.channels_first]),
        "batch size": batch_size,
        **effects,
        **VERSIONS,
    }


def _padding_summary(plan: Plan) -> str | None:
    """Returns how many values are padded, and to which sizes; None without padding."""
    shapes = {value.address: value.shape for value in plan.stored}
    sizes = {
        shapes[name][axis] or 0 for name, axes in plan.padded.items() for axis in axes
    }
    if not sizes:
        return None
    return f"{len(plan.padded)} values to {', '.join(map(str, sorted(sizes)))}"


def configuration_digest(model: keras.Model) -> str:
    """Returns a digest of a model's configuration, without its weights."""

    def make() -> str:
        # A model may have no configuration, or none of its layers in it.
        parts = [model, *layers_of(model)]
        with without_importing_tensorflow():
            found = [[_type_name(part), _plain(configuration(part))] for part in parts]
        return digest(found)

    return remembered(model, "configuration", make)


def _type_name(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _weights_digest(model: keras.Model) -> str:
    digest, backend = xxhash.xxh3_64(), current_backend()
    for variable in model.weights:
        values = backend.values_of(variable)
        digest.update(f"{values.shape} {values.dtype.name};".encode())
        digest.update(_bytes(values))
    for vocabulary in learned(model):
        digest.update(json.dumps(vocabulary).encode())
    return digest.hexdigest()


def inputs_digests(inputs: Any) -> NDArray[np.uint64]:
    """Returns 64-bit digests of the rows of a batch: of their forms and their bytes."""
    leaves = keras.tree.flatten_with_path(inputs)
    arrays = [array for _, array in leaves if array is not None]
    forms = b"".join(
        _form(path, None if array is None else (array.shape[1:], array.dtype))
        for path, array in leaves
    )
    # The digest of a row in one array is the seed of that in the next.
    digests = [xxhash.xxh3_64_intdigest(forms)] * len(arrays[0])
    for array in arrays:
        digests = list(map(xxhash.xxh3_64_intdigest, _rows(array), digests))
    return np.array(digests, np.uint64)


# All batches of a data set have the same forms, and names of dtypes are slow.
@functools.lru_cache(maxsize=256)
def _form(path: tuple[Any, ...], form: tuple[Any, np.dtype[Any]] | None) -> bytes:
    return f"{path} {form and (form[0], form[1].name)};".encode()


def _rows(array: NDArray[Any]) -> Iterator[memoryview | bytes]:
    """Yields the bytes of each row."""
    if array.dtype == object:
        return map(_bytes, array.reshape(len(array), -1))
    content, size = _bytes(array), array[:1].nbytes
    if not size:
        return itertools.repeat(b"", len(array))
    return (content[start : start + size] for start in range(0, len(content), size))


def _bytes(array: Any) -> memoryview | bytes:
    if array.dtype == object:
        # Strings, as bytes.
        lengths = np.array([len(text) for text in array.flat], np.int64)
        return lengths.tobytes() + b"".join(array.flat)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _plain(config: Any) -> Any:
    """Returns a configuration as JSON, without parts that differ between processes."""
    if isinstance(config, Mapping):
        changing = {"shared_object_id"}
        if config.get("class_name") == "__lambda__":
            # Compiled code, which contains the name of its file.
            changing.add("config")
        return {str(k): _plain(v) for k, v in config.items() if k not in changing}
    if isinstance(config, list | tuple):
        return [_plain(member) for member in config]
    if config is None or isinstance(config, str | int | float | bool):
        return config
    if isinstance(config, np.ndarray | np.generic):
        return config.tolist()
    return _type_name(config)
