"""What must be equal for two runs to be one, and for two values to be the same."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Literal

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from layertap import listening, texts
from layertap.plans import Plan

Verdict = Literal["identical", "within rounding", "different"]

# Of a dtype's own precision, as a share of the largest value: sums of some thousand
# products in another order stay below it.
ROUNDING = 256


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
        **listening.versions(),
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


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], whose: str = "this run"
) -> list[str]:
    """Says in which points two identities differ, both sides.

    Args:
        theirs: The identity in a store.
        ours: The identity of the run that is to be it.
        whose: Whose the second is.
    """
    return [
        texts.printable(
            f"{name}: the store has {theirs.get(name)}, {whose} {ours.get(name)}"
        )
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]


def compare(
    saved: NDArray[Any], fresh: NDArray[Any], computed: str | None = None
) -> Verdict:
    """Grades how much two arrays are the same. NaN equals NaN.

    Args:
        saved: What was saved.
        fresh: The same, recomputed.
        computed: The dtype that both were computed in, if it is not theirs.

    Returns:
        `"identical"` bit for bit; `"within rounding"` if all differences are less than
        256 times the dtype's precision, relative to the largest value of the row;
        else `"different"`. The dtype is the one of the computation; where the result
        was narrowed, once the precision of what is left is added.
    """
    if saved.shape != fresh.shape or saved.dtype != fresh.dtype:
        return "different"
    if saved.tobytes() == fresh.tobytes():
        return "identical"
    if saved.dtype.kind in "biuSU":
        return "different"
    difference = distance(saved, fresh)
    if not np.isfinite(difference).all():
        return "different"
    wide = np.abs(_wide(fresh))
    scale = np.where(np.isfinite(wide), wide, 0)
    axes = tuple(range(1, scale.ndim))
    share = ROUNDING * _precision(saved.dtype.name)
    if computed is not None:
        share = ROUNDING * _precision(computed) + _precision(saved.dtype.name)
    bound = share * scale.max(axis=axes, keepdims=True)
    return "within rounding" if (difference <= bound).all() else "different"


def told_apart(
    saved: NDArray[Any], fresh: NDArray[Any], row: int, whose: str = "this run"
) -> str:
    """Says where two arrays of the same rows differ most, both sides.

    Args:
        saved: What was saved.
        fresh: What there is now.
        row: The number of their first row.
        whose: Whose the second is.
    """
    texts_both = saved.dtype.kind == fresh.dtype.kind == "U"
    if saved.shape != fresh.shape or (saved.dtype != fresh.dtype and not texts_both):
        return (
            f"rows from {row} on are {saved.dtype} of shape {saved.shape} in the "
            f"store, and {fresh.dtype} of shape {fresh.shape} in {whose}"
        )
    exact = saved.dtype.kind in "biuU"
    apart = saved != fresh if exact else distance(saved, fresh)
    at = np.unravel_index(np.argmax(apart), apart.shape)
    number = f"row {row + int(at[0])}"
    if at[1:]:
        number += f" at {', '.join(str(int(n)) for n in at[1:])}"
    return f"{number} is {saved[at]} in the store, and {fresh[at]} in {whose}"


def distance(saved: NDArray[Any], fresh: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the absolute difference, number by number; 0 where both are equal.

    Two NaN are equal, and so are two infinities of one sign; NaN or an infinity
    against anything else is infinitely far.
    """
    a, b = _wide(saved), _wide(fresh)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart = np.where(np.isnan(apart), np.inf, apart)
    result: NDArray[np.float64] = np.where(same, 0.0, apart).astype(np.float64)
    return result


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float64)


def _precision(dtype: str) -> float:
    if dtype == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)


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
    for learned in listening.learned(model):
        digest.update(json.dumps(learned).encode())
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
        config = listening.config_of(model)
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
