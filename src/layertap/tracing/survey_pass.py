"""The pass that records every join and every operation's outputs."""

from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from layertap.tracing.forward_pass import (
    Call,
    Frame,
    Pass,
    Tensor,
    is_tensor,
    leaves,
    rank,
    tensors_of,
)
from layertap.tracing.join_kinds import is_native
from layertap.tracing.keras_internals import RELEASE, spec_on_tensorflow
from layertap.tracing.model_structure import named_inputs
from layertap.tracing.records import Trace, TracedJoin, TracedValue

# These layers take most of the time of a survey. In this release of Keras, thousands of
# random ones had the shapes that they declare; in Keras 3.8, some had others.
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_OTHER_LAYERS = (keras.layers.BatchNormalization, keras.layers.Activation)
_RELEASE = (3, 15)
# Activations that keep the shape, unlike `glu`, and make a new tensor, unlike `linear`.
_ACTIVATIONS = (
    *(keras.activations.relu, keras.activations.silu, keras.activations.gelu),
    *(keras.activations.sigmoid, keras.activations.tanh),
)


class SurveyPass(Pass):
    """A pass that records every join and every operation's outputs.

    It may skip layers of Keras whose outputs have known shapes. The tensors in their
    place may have another layout in memory, for which another layer may raise an error:
    then a second pass has to skip none.
    """

    def __init__(
        self,
        kinds: Iterable[str],
        specs: Any,
        model_name: str,
        *,
        may_skip: bool = False,
    ) -> None:
        super().__init__(kinds)
        # Nothing is concatenated in the layers that it skips, but other joins are made.
        self._may_skip = may_skip and self.kinds <= {"concatenate"}
        self.joins: dict[str, TracedJoin] = {}
        self.outputs: dict[str, tuple[TracedValue, ...]] = {}
        # The path and the reason of an early end.
        self.stopped: tuple[str, str] | None = None
        # The paths of the operations that draw random numbers.
        self._random: dict[str, None] = {}
        # The reason why no join that is written with the backend can be captured.
        self.native_fault = ""
        self._inputs: dict[str, tuple[TracedValue, ...]] = {}
        self._specs = keras.tree.flatten(specs)
        self._model_name = model_name
        self._rows: Any = None
        # The operation that returned a tensor, by `_key`. For others, by token: the
        # join that made it, or the operation whose `call` did.
        self._makers: dict[Hashable, str] = {}
        self._joined: dict[Hashable, str] = {}
        self._scopes: dict[Hashable, str] = {}
        # The data formats of the operations that have one, by path.
        self._formats: dict[str, str] = {}
        self._tokens: dict[Hashable, Hashable] = {}
        # By id. Once a tensor is freed, another may get its id.
        self._held: dict[int, Tensor] = {}

    def result(self) -> Trace:
        """Returns the trace of a pass that has ended."""
        inputs = {n: v for n, v in self._inputs.items() if n not in self.outputs}
        outputs, random = inputs | self.outputs, tuple(self._random)
        trace = Trace(self.joins, outputs, (*inputs,), self.stopped, random)
        return trace.map(self._attribute)

    def enter(self, operation: Any, args: Any, kwargs: Any) -> Frame:
        """Notes that arguments nobody returned were made by the caller."""
        if self.frames:
            for tensor in tensors_of((args, kwargs)):
                if self._key(tensor) not in self._makers:
                    self._set_scope(tensor)
        return super().enter(operation, args, kwargs)

    def begin(self, frame: Frame, args: Any, kwargs: Any) -> None:
        """Names the inputs, and follows tensors through the casts before `call`."""
        super().begin(frame, args, kwargs)
        if frame.path == "":
            self._rows = tensors_of(args[0])[0].shape[0]
            inputs = keras.tree.flatten(args[0])
            for spec, tensor in zip(self._specs, inputs, strict=True):
                if tensor is not None:
                    self._makers[self._key(tensor)] = spec.name
            named = named_inputs(frame.operation, args[0])
            self._inputs = {name: (self._value(x),) for name, x in named.items()}
            return
        positional, named = frame.arguments
        self.convert(positional, args)
        for name in named.keys() & kwargs.keys():
            self.convert(named[name], kwargs[name])

    def run(self, frame: Frame, call: Call, args: Any, kwargs: Any) -> Any:
        """Runs an operation. If it needs values, tensors stand in for its outputs.

        Tensors also stand in for the outputs of layers that the pass skips.
        """
        if self._may_skip and _may_be_skipped(frame.operation, args):
            shape = frame.operation.compute_output_shape(tuple(args[0].shape))
            return _stand_in(shape, frame.operation.compute_dtype)
        try:
            return super().run(frame, call, args, kwargs)
        except Exception:
            if getattr(frame.operation, "supports_jit", True):
                raise
            frame.inside = False
            with suppress(Exception):
                return _stand_ins(frame.operation, args, kwargs)
            raise

    def convert(self, before: Any, after: Any) -> None:
        """Follows the tensors of a structure through a conversion."""
        passed, received = list(leaves(before)), list(leaves(after))
        if len(passed) == len(received):
            for pair in zip(passed, received, strict=True):
                self._convert_one(*pair)

    def _convert_one(self, before: Any, after: Any) -> None:
        """Follows a tensor through a conversion: its maker, and whether it is new.

        Two casts of one tensor to one dtype are one value. PyTorch copies symbolic
        tensors in conversions that change nothing.
        """
        if before is after or not (is_tensor(before) and is_tensor(after)):
            return
        if self._key(before) in self._makers and self._key(after) not in self._makers:
            self._makers[self._key(after)] = self._makers[self._key(before)]
        if before.shape == after.shape:
            token, dtype = self._token(before), _dtype(after)
            same = _dtype(before) == dtype
            self._tokens[self._key(after)] = token if same else (token, dtype)

    def leave(self, frame: Frame, outputs: Any) -> None:
        """Records the operation's outputs."""
        if not frame.path or frame.path in self.outputs:
            return
        data_format = getattr(frame.operation, "data_format", None)
        if data_format in ("channels_first", "channels_last"):
            self._formats[frame.path] = data_format
        tensors = tensors_of(outputs)
        for tensor in tensors:
            self._makers[self._key(tensor)] = frame.path
        self.outputs[frame.path] = tuple(map(self._value, tensors))

    def begin_join(self, join: TracedJoin, inputs: list[Tensor]) -> TracedJoin:
        """Adds the inputs to a join."""
        values = tuple(map(self._value, inputs))
        if self.native_fault and is_native(join.path):
            values = tuple(replace(v, fault=self.native_fault) for v in values)
        axes = max(len(value.shape) for value in values) + (join.kind == "stack")
        axis = None if join.axis is None else int(join.axis) % axes
        return replace(join, axis=axis, inputs=values)

    def end_join(self, join: TracedJoin, output: Tensor) -> None:
        """Records a join with its output."""
        value = self._value(output)
        if not join.origin:
            self._joined.setdefault(value.token, join.path)
        self.joins[join.path] = replace(join, output=value)

    def draw(self, generator: Any) -> None:
        """Notes the operation that draws random numbers."""
        if self.frames:
            self._random[self.frames[-1].path or self._model_name] = None

    def held_tensors(self) -> list[Tensor]:
        """Returns every noted tensor that belongs to the trace."""
        return [tensor for tensor in self._held.values() if self.belongs(tensor)]

    def replace_tensors(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Identifies tensors with their counterparts outside the trace."""
        for before, after in pairs:
            self._tokens[self._key(after)] = self._token(before)
            if self._key(before) in self._makers:
                self._makers[self._key(after)] = self._makers[self._key(before)]

    def _key(self, tensor: Tensor) -> Hashable:
        """Holds a tensor, and returns its identity until it is changed in place."""
        self._held[id(tensor)] = tensor
        return id(tensor), self.version(tensor)

    def _token(self, tensor: Tensor) -> Hashable:
        key = self._key(tensor)
        return self._tokens.get(key, key)

    def _set_scope(self, tensor: Tensor) -> None:
        path = self.frames[-1].path or self._model_name
        self._scopes.setdefault(self._token(tensor), path)

    def _attribute(self, value: TracedValue) -> TracedValue:
        """Returns a value with its maker, which is known at the end of the pass."""
        token = value.token
        made_by = value.made_by or self._joined.get(token) or self._scopes[token]
        usual = keras.config.image_data_format()
        unclear = any(other != usual for other in self._formats.values())
        data_format = self._formats.get(made_by, "" if unclear else usual)
        return replace(value, made_by=made_by, data_format=data_format)

    def _value(self, tensor: Tensor) -> TracedValue:
        maker = self._makers.get(self._key(tensor), "")
        if not maker:
            self._set_scope(tensor)
        shape, times = _shape(tensor), _times(tensor, self._rows)
        return TracedValue(
            (None, *shape[1:]) if times in (1, None) else shape,
            _dtype(tensor),
            maker,
            self._token(tensor),
            times,
            self._fault(tensor),
        )

    def _fault(self, tensor: Tensor) -> str:
        """Returns the reason why a tensor can't be captured, or nothing."""
        if self.loops:
            return f"it is computed inside {self.loops[-1]}"
        if not self.belongs(tensor):
            return (
                "it is computed inside a separate trace: a loop, a condition, or a "
                "function that is compiled or rematerialised separately"
            )
        kind = type(tensor).__name__
        if "Sparse" in kind or "Ragged" in kind or kind == "BCOO":
            return f"it is a {kind}; make it dense before the join"
        if rank(tensor) is None:
            return "its number of axes is unknown before it runs"
        if _dtype(tensor) == "string":
            return "it holds strings, not numbers"
        return ""


def _stand_ins(operation: Any, args: Any, kwargs: Any) -> Any:
    """Returns symbolic tensors like the outputs of an operation that needs values.

    Keras' own are written with TensorFlow. Others have what they declare.
    """
    sizes = [size for tensor in tensors_of((args, kwargs)) for size in tensor.shape]
    open_size = next((size for size in sizes if not isinstance(size, int)), None)

    def symbolic(leaf: Any) -> Any:
        tensor = is_tensor(leaf)
        return keras.KerasTensor(leaf.shape, _dtype(leaf)) if tensor else leaf

    def like(spec: Any) -> Tensor:
        shape = [open_size if size is None else size for size in spec.shape]
        return _stand_in(shape, spec.dtype)

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    try:
        specs = spec_on_tensorflow(operation.call, *args, **kwargs)
    except Exception:
        specs = operation.compute_output_spec(*args, **kwargs)
    return keras.tree.map_structure(like, specs)


def _may_be_skipped(layer: Any, arguments: Sequence[Any]) -> bool:
    """Whether a layer returns one new tensor, of the shape and dtype that it declares.

    That is known of some layers, unless a user has replaced their methods or weights.
    """
    kind = type(layer)
    if RELEASE < _RELEASE or kind not in (*_CONVOLUTIONS, *_OTHER_LAYERS):
        return False
    methods, activation = [layer.call], getattr(layer, "activation", None)
    if kind in _CONVOLUTIONS:
        methods.append(layer.convolution_op)
        *size, _, filters = layer.kernel.shape
        if (*size, filters) != (*layer.kernel_size, layer.filters):
            return False
    plain = activation in _ACTIVATIONS or (
        # Not in an `Activation`, which returns its input then.
        kind is not keras.layers.Activation
        and activation in (None, keras.activations.linear)
    )
    # Only inputs of floating numbers are cast to the dtype that the layer computes in.
    cast = layer.autocast and len(arguments) == 1 and _is_float(arguments[0])
    return plain and cast and all(map(_is_of_keras, methods))


def _is_float(tensor: Any) -> bool:
    """Whether this is a tensor of floating numbers, all of whose sizes are known."""
    return (
        is_tensor(tensor)
        and keras.backend.is_float_dtype(_dtype(tensor))
        and all(type(size) is int for size in tensor.shape)
    )


def _is_of_keras(method: Any) -> bool:
    module = getattr(method, "__module__", None) or ""
    return module.startswith("keras.src.layers.") and not hasattr(method, "__wrapped__")


def _stand_in(shape: Sequence[Any], dtype: str) -> Tensor:
    """Returns a tensor of the trace in the place of an output."""
    zero = keras.ops.convert_to_tensor(np.zeros((), dtype))
    return keras.ops.broadcast_to(zero, shape)


def _dtype(tensor: Tensor) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _times(tensor: Tensor, rows: Any) -> int | None:
    """Returns how many times the rows a tensor's first axis has, if that is known."""
    if rank(tensor) == 0:
        return 0
    size = tensor.shape[0]
    if size is None:
        return None
    if size == rows:
        return 1
    # A known size does not depend on unknown rows. Any size is a multiple of one row.
    if rows is None or isinstance(size, int) != isinstance(rows, int) or rows == 1:
        return 0
    # JAX divides symbolic sizes.
    times = size // rows
    return times if isinstance(times, int) and times * rows == size else 0


def _shape(tensor: Tensor) -> tuple[int | None, ...]:
    """Returns a tensor's shape, with None for a size that is not a number."""
    if rank(tensor) is None:
        return (None,)
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)
