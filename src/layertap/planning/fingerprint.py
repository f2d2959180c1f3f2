"""What must be equal for two runs to be one."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from layertap.core.plan import Plan
from layertap.tracing.collect import versions
from layertap.tracing.model_structure import config_of, learned


def identity(
    model: keras.Model, plan: Plan, batch_size: int | None
) -> dict[str, str | int | None]:
    """Describes a run, so that another can be told from it.

    Args:
        model: The model: its weights and its configuration count.
        plan: The plan: its values count, and what is stored of them.
        batch_size: Rows per batch: results can differ in rounding with it.

    Returns:
        What counts, by name, short enough to be shown.
    """
    planned = json.dumps(
        [(v.address, v.shape, v.dtype, v.alias_of) for v in plan.values]
    )
    return {
        "weights": _digest_of_weights(model),
        "configuration": configuration(model),
        "dtype": plan.dtype,
        "reduce": plan.reduce,
        "pad": _padding(plan),
        "plan": _digest(planned),
        "batch size": batch_size,
        **versions(),
    }


def _padding(plan: Plan) -> str | None:
    """Returns what is padded, and to which sizes; None if nothing is."""
    shapes = {value.address: value.shape for value in plan.stored}
    sizes = {
        shapes[name][axis] or 0 for name, axes in plan.padded.items() for axis in axes
    }
    if not sizes:
        return None
    return f"{len(plan.padded)} values to {', '.join(map(str, sorted(sizes)))}"


def configuration(model: keras.Model) -> str:
    """Returns a digest of a model's configuration, without its weights."""
    return _digest(json.dumps(_configuration(model), sort_keys=True))


def told(function: Callable[..., Any]) -> str:
    """Returns a function's name and a digest of its code.

    What the code has at hand counts, defaults and closures too; what it looks up when
    it runs (other functions, global names) does not.
    """
    owner = function if hasattr(function, "__qualname__") else type(function)
    digest = _digest(json.dumps(_content(function, ())))
    return f"{owner.__module__}.{owner.__qualname__} ({digest})"


def _content(part: Any, within: tuple[int, ...]) -> Any:
    """Returns what makes a function, or a part of one, as JSON."""
    if id(part) in within:
        # A function that has itself at hand.
        return "…"
    within = (*within, id(part))
    if isinstance(part, functools.partial):
        part = [part.func, part.args, part.keywords]
    elif hasattr(part, "__code__"):
        cells = [cell.cell_contents for cell in part.__closure__ or ()]
        part = [part.__code__, part.__defaults__, part.__kwdefaults__, cells]
    elif isinstance(part, CodeType):
        part = [part.co_code, part.co_names, part.co_consts]
    elif isinstance(part, keras.Operation):
        # Without the name, which Keras counts up.
        config = part.get_config().items()
        part = [type(part).__qualname__, [item for item in config if item[0] != "name"]]
    elif isinstance(part, np.ndarray):
        part = [part.shape, part.dtype.name, part.tobytes()]
    if isinstance(part, Mapping):
        part = list(part.items())
    if isinstance(part, set | frozenset):
        part = sorted(map(repr, part))
    if isinstance(part, list | tuple):
        return [_content(member, within) for member in part]
    if part is None or isinstance(part, bool | int | float | complex | str | bytes):
        return repr(part)
    owner = part if hasattr(part, "__qualname__") else type(part)
    return owner.__qualname__


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest_of_weights(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for variable in model.weights:
        values = keras.ops.convert_to_numpy(variable.value)
        digest.update(f"{values.shape} {values.dtype.name};".encode())
        digest.update(_bytes(values))
    for vocabulary in learned(model):
        digest.update(json.dumps(vocabulary).encode())
    return digest.hexdigest()[:16]


def of_inputs(inputs: Any) -> int:
    """Returns a digest of a batch of inputs, of 64 bits: their forms and their bytes.

    Args:
        inputs: A structure of arrays.
    """
    digest = xxhash.xxh3_64()
    for path, array in keras.tree.flatten_with_path(inputs):
        digest.update(_form(path, array.shape, array.dtype))
        digest.update(_bytes(array))
    return digest.intdigest()


# All batches of a data set have the same forms, and the names of dtypes take time.
@functools.lru_cache(maxsize=256)
def _form(path: tuple[Any, ...], shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    return f"{path} {shape} {dtype.name};".encode()


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _configuration(model: keras.Model) -> Any:
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    try:
        config = config_of(model)
    except NotImplementedError:
        # A subclassed model need not have one.
        config = {}
    return [name, _plain(config)]


def _plain(config: Any) -> Any:
    """Returns a configuration as JSON, without what changes from process to process."""
    if isinstance(config, Mapping):
        changing = {"shared_object_id"}
        if config.get("class_name") == "__lambda__":
            # Compiled code, which has the name of its file in it.
            changing.add("config")
        return {str(k): _plain(v) for k, v in config.items() if k not in changing}
    if isinstance(config, list | tuple):
        return [_plain(member) for member in config]
    if config is None or isinstance(config, str | int | float | bool):
        return config
    if isinstance(config, np.ndarray):
        return config.tolist()
    return f"{type(config).__module__}.{type(config).__qualname__}"
