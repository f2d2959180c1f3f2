"""Converts an element of any data into a batch for a model's inputs."""

import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from layertap.core import text
from layertap.errors import DataError, DataTypeError
from layertap.inputs.columns import Columns, Parts, as_table, find_input
from layertap.inputs.images import ImageFolder
from layertap.tracing.keras_internals import private
from layertap.tracing.model_structure import check_strings, fixed_rows

# What to do where arrays have no values.
OUTSIDE = (
    "Call layertap outside of functions that the backend transforms: jax.jit, "
    "jax.vmap, jax.grad, torch.func, tf.function, tf.vectorized_map."
)


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a data set, as NumPy arrays or structures of them.

    Attributes:
        row: The number of its first row in the data set.
        full: How many rows it may be padded to: those of the first batch.
    """

    row: int
    rows: int
    inputs: Any
    labels: Any = None
    sample_weight: Any = None
    ids: Any = None
    full: int | None = None

    def parts(self, size: int | None) -> "Iterator[Batch]":
        """Yields the same rows in batches of a size; None leaves them together."""
        if size is None or self.rows <= size:
            yield self
            return
        structures = (self.inputs, self.labels, self.sample_weight, self.ids)
        for start in range(0, self.rows, size):
            part = operator.itemgetter(slice(start, start + size))
            rows = min(size, self.rows - start)
            yield Batch(self.row + start, rows, *(mapped(part, s) for s in structures))

    def forms(self) -> dict[str, str]:
        """Describes what must be the same in all batches, by the arrays' names."""
        forms = {}
        leaves = named_leaves(self.inputs, self.labels, self.sample_weight, self.ids)
        for name, leaf in leaves.items():
            # Inputs may change their sizes, where the model lets them.
            is_input = name.startswith("inputs")
            sizes = "?" * (leaf.ndim - 1) if is_input else leaf.shape[1:]
            dtype = "text" if leaf.dtype.kind in "OSU" else leaf.dtype.name
            forms[name] = f"{dtype} of shape ({', '.join(['rows', *map(str, sizes)])})"
        return forms


class Converter:
    """Converts elements: inputs, or `(x, y, sample_weight)` as `model.fit` accepts it.

    Args:
        specs: The model's structure of `InputSpec`. None for a model without a graph:
            its inputs stay as they are, with floats in Keras' default dtype.
    """

    def __init__(self, specs: Any, labels: Any = None, ids: Any = None) -> None:
        self._specs = specs
        # The only number of rows that the model accepts, if it does not accept any.
        self.fixed_rows = None if specs is None else fixed_rows(specs)
        self._flat_specs = [] if specs is None else keras.tree.flatten(specs)
        self._by_name = (
            specs
            if isinstance(specs, Mapping)
            else {spec.name: spec for spec in self._flat_specs}
        )
        self.columns = Columns(self._by_name, labels, ids)

    def unpack(self, element: Any) -> Parts:
        """Splits an element into inputs that the model accepts, labels and so on."""
        if isinstance(element, Parts):
            return element
        element = text_arrays(element)
        if not isinstance(element, tuple):
            return self._parts(element)
        inputs = len(self._flat_specs)
        if len(element) == inputs >= 2 and all(map(is_array, element)):
            return self._parts(list(element))
        if not 1 <= len(element) <= 3:
            raise DataError(
                f"A tuple of the data has {len(element)} members. Expected (x,), (x, y)"
                " or (x, y, sample_weight). Pass several inputs as a list or a "
                "dictionary."
            )
        return self._parts(*element)

    def count_rows(self, element: Any) -> int:
        """Counts the rows of an element by its inputs, without converting them."""
        for leaf in keras.tree.flatten(self.unpack(element).inputs):
            shape: Any = getattr(leaf, "shape", ())
            if len(shape) and shape[0] is not None:
                return int(shape[0])
        # Not an array with rows: `convert` reports the error.
        return 1

    def convert(self, element: Any, row: int, *, copy: bool) -> Batch:
        """Converts an element; with `copy`, the batch shares no memory with it."""
        x, *others = self.unpack(element)
        inputs = self._fit(x, row, copy)
        others = [mapped(partial(_array, copy=copy), part) for part in others]
        leaves = named_leaves(inputs, *others)
        rows = common_rows(leaves, f" from row {row} on")
        return Batch(row, rows, inputs, *others)

    def _parts(self, x: Any, y: Any = None, weight: Any = None) -> Parts:
        x = as_table(x)
        if isinstance(x, Mapping):
            parts = self.columns.split(x, y, weight)
            if not isinstance(parts.inputs, dict):
                return parts
            fitted = {
                name: leaf.fitted(self._by_name.get(name))
                for name, leaf in parts.inputs.items()
                if isinstance(leaf, ImageFolder)
            }
            return parts._replace(inputs=parts.inputs | fitted)
        self.columns.check_no_names(x)
        if not isinstance(x, ImageFolder):
            return Parts(x, y, weight)
        images = x.fitted(self._specs)
        return Parts(images, images.labels if y is None else y, weight, images.ids)

    def check_rows(self, row: int, rows: int) -> None:
        """Raises unless the model accepts the number of rows of the batch at a row."""
        if self.fixed_rows not in (None, rows):
            raise DataError(
                f"The batch from row {row} on has another number of rows than the "
                f"model accepts. Expected {self.fixed_rows}, the batch size that its "
                f"inputs declare. Received {rows}. Pass a multiple of "
                f"{self.fixed_rows} rows, in batches of {self.fixed_rows}, or build "
                "the model without `batch_shape`."
            )

    def _fit(self, x: Any, row: int, copy: bool) -> Any:
        """Returns inputs in the structure, the dtypes and the ranks of the model."""
        if self._specs is None:
            return mapped(lambda leaf: _numbers(leaf, None, "The input", row, copy), x)
        leaves = keras.tree.flatten(_match(x, self._specs))
        if len(leaves) != len(self._flat_specs):
            names = ", ".join(spec.name for spec in self._flat_specs)
            plain = any(isinstance(leaf, int | float) for leaf in leaves)
            advice = " Python's numbers have no rows. Pass batches of arrays, as from"
            advice += ' a Hugging Face data set `.with_format("numpy").batch(32)`.'
            raise DataError(
                "The data do not fit the model. Expected "
                f"{text.counted(len(self._flat_specs), 'input')} ({names}). Received "
                f"{len(leaves)}.{advice if plain else ''}"
            )
        arrays = [
            _fit_leaf(leaf, spec, row, copy)
            for leaf, spec in zip(leaves, self._flat_specs, strict=True)
        ]
        return keras.tree.pack_sequence_as(self._specs, arrays)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """Returns a structure with a function of each leaf; None stays None."""
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), structure
    )


def _match(x: Any, specs: Any) -> Any:
    """Returns inputs such that, flattened, they are in the order of the specs."""
    if isinstance(x, Mapping):
        if isinstance(specs, Mapping):
            return {key: _match(find_input(x, key), specs[key]) for key in specs}
        return keras.tree.map_structure(lambda spec: find_input(x, spec.name), specs)
    if isinstance(specs, Mapping) and list(specs) != sorted(specs):
        # Keras refuses this, too: the model's order or that of flattening?
        raise DataError(
            "The inputs have no names, but the model's are not sorted. Expected a "
            f"dictionary of {', '.join(map(repr, specs))}. Received {type(x).__name__}."
        )
    lists = isinstance(x, list | tuple) and isinstance(specs, list | tuple)
    if lists and len(x) == len(specs):
        return [_match(*pair) for pair in zip(x, specs, strict=True)]
    return x


def named_leaves(x: Any, y: Any, weight: Any, ids: Any = None) -> dict[str, Any]:
    """Returns the arrays of a batch by names such as `inputs['image']`."""
    structures = {"inputs": x, "labels": y, "sample_weight": weight, "ids": ids}
    return {
        what + "".join(f"[{key!r}]" for key in path): leaf
        for what, structure in structures.items()
        for path, leaf in keras.tree.flatten_with_path(structure)
        if leaf is not None
    }


def common_rows(leaves: Mapping[str, Any], where: str = "") -> int:
    """Returns the number of rows of all arrays, or raises if they differ."""
    counts = {leaf.shape[0] if leaf.shape else -1 for leaf in leaves.values()}
    if len(counts) == 1 and -1 not in counts:
        return int(counts.pop())
    shapes = ", ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in leaves.items())
    raise DataError(
        f"The arrays have different numbers of rows{where}. Expected the same number "
        f"of rows. Received {shapes}."
    )


def text_arrays(data: Any) -> Any:
    """Returns data with arrays in place of lists of strings."""
    if isinstance(data, list) and data and all(map(_is_text, data)):
        return np.array(data, object)
    if type(data) is dict:
        return {name: text_arrays(part) for name, part in data.items()}
    return type(data)(map(text_arrays, data)) if type(data) in (list, tuple) else data


def _is_text(leaf: Any) -> bool:
    return isinstance(leaf, str | bytes)


def is_array(leaf: Any) -> bool:
    """Whether this is an array, or converts to one without reading a file."""
    return hasattr(leaf, "__array__") or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )


def sliceable(leaf: Any, *, is_input: bool = False) -> Any:
    """Returns an array that is sliced by rows; a Series as input becomes a column."""
    if leaf is None:
        return None
    check_dense(leaf)
    pandas = hasattr(leaf, "iloc")
    if is_input and pandas and leaf.ndim == 1:
        return array_of(leaf)[:, None]
    jax = sys.modules.get("jax")
    if (
        pandas  # A table slices by names.
        or not hasattr(leaf, "shape")
        # As in Keras: NumPy slices faster than JAX, and shares memory on a CPU.
        or (jax is not None and isinstance(leaf, jax.Array))
    ):
        leaf = array_of(leaf)
    if not leaf.shape:
        raise DataError(
            "The data hold a scalar. Expected arrays with at least an axis of rows."
        )
    return leaf


def check_dense(leaf: Any) -> None:
    """Raises if a tensor is ragged or sparse."""
    kind, module = type(leaf).__name__, type(leaf).__module__
    torch: Any = sys.modules.get("torch")
    on_torch = torch is not None and isinstance(leaf, torch.Tensor)
    if (
        "Ragged" in kind
        or "Sparse" in kind
        or module.startswith(("scipy.sparse", "jax.experimental.sparse"))
        or (on_torch and leaf.layout is not torch.strided)
    ):
        kind = f"{leaf.layout} tensor" if on_torch else kind
        raise DataTypeError(
            f"The data hold a {kind}. Expected dense arrays. Pad its rows to one size."
        )


def array_of(leaf: Any) -> NDArray[Any]:
    """Converts a leaf of the data to a NumPy array."""
    if isinstance(leaf, np.ndarray):
        return leaf
    check_dense(leaf)
    if not is_array(leaf) and not isinstance(leaf, int | float | bool | list):
        raise DataTypeError(
            f"The data hold a {type(leaf).__name__}. Expected arrays of numbers."
        )
    torch = sys.modules.get("torch")
    on_torch = torch is not None and isinstance(leaf, torch.Tensor)
    try:
        return _torch_array(leaf) if on_torch else np.asarray(leaf)
    except (TypeError, RuntimeError) as error:
        # Tensors of a transformation have no values, and no other property in common.
        raise DataTypeError(
            f"The data hold a {type(leaf).__name__} that NumPy can't read. Expected "
            f"arrays with values. Received {type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}. {OUTSIDE}"
        ) from error


def _torch_array(tensor: Any) -> NDArray[Any]:
    if private(torch := sys.modules["torch"], "_is_functional_tensor")(tensor):
        # NumPy would receive memory that nothing was written to.
        raise TypeError("a functional tensor")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.float().numpy().astype(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


def _array(leaf: Any, copy: bool) -> NDArray[Any]:
    array = array_of(leaf)
    return array.copy() if copy else array


def _numbers(
    leaf: Any, dtype: str | None, name: str, row: int, copy: bool
) -> NDArray[Any]:
    array = array_of(leaf)
    texts = array.dtype.kind in "SUT" or (
        array.dtype.kind == "O" and all(map(_is_text, array.flat))
    )
    if dtype == "string" or (dtype is None and texts):
        return _texts(array, name, row)
    # NumPy would drop an imaginary part.
    imaginary = array.dtype.kind == "c" and not (dtype or "").startswith("complex")
    if array.dtype.kind in "OSUMm" or imaginary:
        raise DataTypeError(
            f"{name} holds {array.dtype} from row {row} on. Expected "
            f"{dtype or 'real numbers'}. Encode it first."
        )
    if dtype is None:
        floating = keras.backend.is_float_dtype(array.dtype.name)
        dtype = keras.config.floatx() if floating else array.dtype.name
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype, copy=copy)
    # Integers have to stay the same.
    if cast.dtype.kind in "iu" and not np.can_cast(array.dtype, cast.dtype):
        changed = cast != array
        if changed.any():
            raise DataError(
                f"{name} holds {array[changed][0]} from row {row} on. Expected values "
                f"of {dtype}, the model's dtype. Convert the data to {dtype}."
            )
    return cast


def _texts(array: NDArray[Any], name: str, row: int) -> NDArray[Any]:
    """Returns strings as an array of bytes, the form in which TensorFlow has them."""
    check_strings("string", name)
    texts = array.astype(object)
    for place, member in np.ndenumerate(texts):
        try:
            texts[place] = member if isinstance(member, bytes) else member.encode()
        except (UnicodeEncodeError, AttributeError) as error:
            raise DataTypeError(
                f"{name} holds {member!r} in row {row + place[0]}. Expected strings in "
                "UTF-8. Convert the column to strings, and fill in missing ones."
            ) from error
    return texts


def _fit_leaf(leaf: Any, spec: Any, row: int, copy: bool) -> NDArray[Any] | None:
    if leaf is None:
        if spec.optional:
            return None
        raise DataTypeError(
            f"Input {spec.name!r} is None. Expected an array: the model's input is not "
            "optional."
        )
    array = _numbers(leaf, spec.dtype, f"Input {spec.name!r}", row, copy)
    rank = len(spec.shape)
    # As Keras does: a last axis of size 1 is added or removed.
    if array.ndim == rank - 1 and spec.shape[-1] == 1:
        array = array[..., None]
    elif array.ndim == rank + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != rank or any(
        n is not None and n != size
        for n, size in zip(spec.shape[1:], array.shape[1:], strict=True)
    ):
        sizes = ["rows", *("?" if n is None else str(n) for n in spec.shape[1:])]
        single = array.ndim == rank - 1 or (array.ndim < rank and spec.shape[-1] == 1)
        advice = " Is it a single row? Batch the data, as by `.batch(32)`."
        raise DataError(
            f"Input {spec.name!r} has another shape than the model's from row {row} "
            f"on. Expected ({', '.join(sizes)}). Received {array.shape}."
            f"{advice if single else ''}"
        )
    return array
