"""Interventions: the outputs of a model when other values replace its own."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import ml_dtypes
import numpy as np
from keras import ops
from numpy.typing import NDArray

from layertap.core import tables
from layertap.core.plan import Plan, Value
from layertap.core.values import unknown_address
from layertap.errors import DataError, OptionError, RefusedError
from layertap.inputs.convert import Batch
from layertap.tracing.collect import begin
from layertap.tracing.forward_pass import Change, Tensor, Wanted
from layertap.tracing.keras_internals import backend
from layertap.tracing.reuse.memo import remembered
from layertap.tracing.write_pass import WritingStep

# What to put in the place of a value.
Replacement = NDArray[Any] | Literal["zero", "mean"] | Callable[[Tensor], Tensor]

# Numbers of a later kind have room for those of an earlier one.
_KINDS = ("b", "iu", "f", "c")


def predict(
    model: keras.Model, plan: Plan, batch: Batch, replace: Mapping[str, Any]
) -> Any:
    """Returns the model's outputs of a batch with some values of a plan replaced."""
    if not isinstance(replace, Mapping):
        raise OptionError(
            "`replace` is invalid. Expected a dictionary: a replacement by address. "
            f"Received a {type(replace).__name__}."
        )
    values = {name: _value(plan, name) for name in replace}
    arrays: dict[str, NDArray[Any]] = {}
    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, new in replace.items():
        if callable(new):
            functions[name] = new
        elif isinstance(new, str) and new in _NAMED:
            functions[name] = _NAMED[new]
        else:
            arrays[name] = _array(values[name], new, batch.rows)
    wanted = Wanted([*replace], {join.kind for join in plan.joins}, bool(plan.random))

    def make_change(arrays: Mapping[str, Tensor]) -> Change:
        def change(name: str, tensor: Tensor) -> Tensor:
            new = arrays[name] if name in arrays else functions[name](tensor)
            if tuple(new.shape) != tuple(tensor.shape):
                raise _other_form(name, tensor, new)
            return ops.cast(new, tensor.dtype)

        return change

    def check() -> bool:
        for name, function in functions.items():
            _check_function(values[name], function, batch.rows)
        return True

    ids = tuple((name, id(function)) for name, function in functions.items())
    key, calls = ("write", repr(plan), tuple(arrays), ids), list(functions.values())
    if functions:
        remembered(model, (*key, batch.rows), check, calls=calls)
    writing = remembered(
        model, key, lambda: WritingStep(model, wanted, make_change), calls=calls
    )
    outputs = begin(writing.step, (batch.inputs, arrays))()
    owned = {name: np.array(array) for name, array in outputs.items()}
    return writing.pack(batch.inputs, owned)


def _mean(tensor: Tensor) -> Tensor:
    """Returns the mean of the rows of a batch in each row."""
    mean = ops.mean(tensor, axis=0, keepdims=True)
    return ops.broadcast_to(mean, ops.shape(tensor))


_NAMED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "zero": ops.zeros_like,
    "mean": _mean,
}


def _value(plan: Plan, name: str) -> Value:
    """Returns a value of a plan that can be replaced."""
    if name not in plan.addresses:
        raise unknown_address(plan, name)
    if plan.reduce is not None or plan.dtype is not None:
        raise OptionError(
            "A tap that changes its values can't replace them. Expected one without "
            "`reduce` and `dtype`. Received a plan with "
            f"reduce={plan.reduce!r}, dtype={plan.dtype!r}."
        )
    if name in plan.folded:
        raise RefusedError(
            f"{name} can't be replaced: its rows are folded into another axis. "
            "Replace a value that is computed before or after it."
        )
    return next(value for value in plan.values if value.address == name)


def _array(value: Value, new: Any, rows: int) -> NDArray[Any]:
    """Returns an array that replaces a value, in its dtype."""
    try:
        array = np.asarray(ops.convert_to_numpy(new))
    except (TypeError, ValueError) as error:
        raise _invalid(value.address, new) from error
    if array.dtype.kind in "OSUMm":
        raise _invalid(value.address, new)
    sizes = (rows, *value.shape[1:])
    fits = array.ndim == len(sizes) and all(
        expected in (None, size)
        for expected, size in zip(sizes, array.shape, strict=True)
    )
    if not fits or not _fits(array.dtype.name, value.dtype):
        raise _other_form(value.address, keras.KerasTensor(sizes, value.dtype), array)
    with np.errstate(over="ignore"):
        cast = array.astype(getattr(ml_dtypes, value.dtype, value.dtype))
    if (np.isfinite(array) & ~np.isfinite(cast)).any():
        raise DataError(
            f"{value.address} can't be replaced by numbers that are infinite in its "
            f"dtype. Expected numbers of {value.dtype}. Received {array.dtype} up to "
            f"{np.abs(array).max():.3g}."
        )
    return cast


def _check_function(
    value: Value, function: Callable[[Tensor], Tensor], rows: int
) -> None:
    """Raises unless a function returns a tensor in the form of the value."""
    name = value.address
    if isinstance(function, keras.Layer) and not function.built:
        raise OptionError(
            f"The replacement of {name} is invalid. Expected a layer that is built. "
            f"Received {function.name!r}, which is not. Call it once before."
        )
    # With a number of rows: TensorFlow would not know how many the result has.
    form = keras.KerasTensor((rows, *value.shape[1:]), value.dtype)
    try:
        spec = backend.compute_output_spec(function, form)
    except Exception as error:  # A function may raise anything.
        raise OptionError(
            f"The replacement of {name} is invalid. Expected a function with "
            f"`keras.ops` of {_form(form)}. It raised {type(error).__name__}: {error}"
        ) from error
    if not hasattr(spec, "shape"):
        raise _invalid(name, spec)
    if tuple(spec.shape) != tuple(form.shape) or not _fits(_dtype(spec), value.dtype):
        raise _other_form(name, form, spec)


def _fits(dtype: str, expected: str) -> bool:
    """Whether numbers of a dtype convert to another without losing what they are."""
    if dtype == expected:
        return True
    places = [
        place
        for name in (dtype, expected)
        for place, kinds in enumerate(_KINDS)
        # NumPy does not know all floats of Keras.
        if ("f" if "float" in name else np.dtype(name).kind) in kinds
    ]
    return len(places) == 2 and places[0] <= places[1]


def _dtype(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _form(tensor: Any) -> str:
    return f"{tables.shape(tuple(tensor.shape))} {_dtype(tensor)}"


def _other_form(name: str, expected: Any, received: Any) -> DataError:
    return DataError(
        f"{name} can't be replaced by values of another form. Expected "
        f"{_form(expected)}. Received {_form(received)}."
    )


def _invalid(name: str, new: Any) -> OptionError:
    return OptionError(
        f"The replacement of {name} is invalid. Expected an array of numbers, 'zero', "
        f"'mean', or a function of a tensor. Received {new!r}."
    )
