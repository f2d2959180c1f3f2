"""The hooks around Keras' own calls, and when they are in place.

They are process-wide during a pass. Each looks up the pass in a context variable, so
that other threads, and models that run inside the data, are not traced.
"""

import functools
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import keras

from layertap.tracing.backends import current_backend
from layertap.tracing.forward_pass import (
    Call,
    Frame,
    Pass,
    Point,
    is_tensor,
    layer_branches,
    rank,
    tensors_of,
    with_branches,
    with_tensors,
)
from layertap.tracing.join_kinds import (
    FUNCTIONS,
    OPERATIONS,
    RNN_LOOP,
    WHOLE_LAYERS,
    operation_name,
    origin,
    stack,
)
from layertap.tracing.keras_internals import Functional, backend, moved, private
from layertap.tracing.records import TracedJoin

# Operations whose bodies run in a separate trace, or as often as the data require.
LOOPS = (
    "associative_scan",
    "cond",
    "fori_loop",
    "map",
    "scan",
    "switch",
    "vectorized_map",
    "while_loop",
)

# Functions of the backend that return random numbers, and have been there since 3.8.
RANDOM = (
    *("normal", "uniform", "categorical", "randint", "truncated_normal", "dropout"),
    *("shuffle", "gamma", "binomial", "beta"),
)

# Functions that join a list of tensors.
_OF_LISTS = ("concatenate", "hstack", "stack")

_current: ContextVar[Pass | None] = ContextVar("layertap_pass", default=None)
_signature = functools.cache(inspect.signature)

# Handlers of the wrapped calls. Their own parameters are positional-only, since a call
# may have keyword arguments of any name.


def _layer_call(
    pass_: Pass, original: Call, operation: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Calls an operation in a frame of its own."""
    if not pass_.listens:
        return original(operation, *args, **kwargs)
    frame = pass_.enter(operation, args, kwargs)
    try:
        with pass_.listener.covered():
            outputs = original(operation, *args, **kwargs)
        written = pass_.write("out", frame.path, tensors_of(outputs))
        if written is not None:
            outputs = with_tensors(outputs, iter(written))
        pass_.leave(frame, outputs)
        return outputs
    except Exception as error:
        pass_.fail(error, frame)
        raise
    finally:
        pass_.frames.pop()


def _layer_init(
    pass_: Pass, original: Call, layer: Any, /, *args: Any, **kwargs: Any
) -> None:
    """Notes a layer that a `call` makes: each pass makes another one."""
    original(layer, *args, **kwargs)
    if pass_.frames and pass_.listens:
        pass_.made[id(layer)] = layer


def _operation_call(
    pass_: Pass, original: Call, operation: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Runs an operation's own `call`, in the frame that `Layer.__call__` opened."""
    frame = pass_.frames[-1] if pass_.frames else None
    if frame is None or frame.operation is not operation or frame.inside:
        if pass_.listens:
            # It is not a layer, so that it has no frame yet.
            original = partial(_operation_call, pass_, original)
        return _layer_call(pass_, original, operation, *args, **kwargs)
    pass_.begin(frame, args, kwargs)
    join = _whole_join(pass_, frame)
    try:
        if join is not None:
            inputs = layer_branches(frame.operation, join.kind, args, kwargs)
            written = pass_.write("in", join.path, inputs)
            if written is not None:
                args, kwargs = with_branches(
                    frame.operation, join.kind, args, kwargs, written
                )
                inputs = written
            join = pass_.begin_join(join, inputs)
        with pass_.listener.scope(frame):
            outputs = pass_.run(frame, original, args, kwargs)
        pass_.listener.flush()
        if join is not None:
            pass_.end_join(join, tensors_of(outputs)[0])
        return outputs
    finally:
        frame.inside = False


def _symbolic_call(
    pass_: Pass, original: Call, operation: Any, /, *args: Any, **kwargs: Any
) -> Any:
    outputs = original(operation, *args, **kwargs)
    if pass_.frames and pass_.listens:
        pass_.record_symbolic(operation, (args, kwargs), outputs)
    return outputs


def _whole_join(pass_: Pass, frame: Frame) -> TracedJoin | None:
    """Returns the join that a complete operation is, or None."""
    for kind in pass_.kinds:
        if not (isinstance(frame.operation, WHOLE_LAYERS[kind]) and frame.path):
            continue
        layer: Any = type(frame.operation)
        names = _signature(layer.call).parameters.keys()
        # A user's attention may receive other tensors than a query and a value.
        if kind != "attention" or "inputs" in names or {"query", "value"} <= names:
            frame.covered = True
            return TracedJoin(frame.path, kind, None, whole=True)
    return None


def _standardize_inputs(pass_: Pass, original: Call, model: Any, /, inputs: Any) -> Any:
    outputs = original(model, inputs)
    if pass_.listens:
        pass_.convert(inputs, outputs)
    return outputs


def _function(
    name: str, pass_: Pass, original: Call, /, *args: Any, **kwargs: Any
) -> Any:
    """Calls a function of the backend's `numpy`, which may join."""
    kind = FUNCTIONS[name]
    frame = pass_.frames[-1] if pass_.frames and pass_.listens else None
    if frame is None or frame.covered or not pass_.counts(kind):
        return original(*args, **kwargs)
    bound = _signature(original).bind(*args, **kwargs)
    bound.apply_defaults()
    inputs = _convert_inputs(name, bound.arguments)
    if inputs is None:
        return original(*args, **kwargs)
    pass_.listener.flush()
    join = _join(pass_, name, bound.arguments.get("axis"), inputs)
    written = pass_.write("in", join.path, inputs)
    if written is not None:
        inputs = written
        _set_inputs(name, bound.arguments, inputs)
    join = pass_.begin_join(join, inputs)
    # The steps inside a join are not joins.
    frame.covered = True
    try:
        with pass_.listener.covered():
            output = original(*bound.args, **bound.kwargs)
        pass_.listener.flush()
    finally:
        frame.covered = False
    pass_.end_join(join, output)
    return output


def _set_inputs(name: str, arguments: dict[str, Any], inputs: list[Any]) -> None:
    """Puts other tensors in the place of those that `_convert_inputs` returned."""
    if name in _OF_LISTS:
        arguments[next(iter(arguments))] = inputs
    else:
        arguments["x1"], arguments["x2"] = inputs


def _convert_inputs(name: str, arguments: dict[str, Any]) -> list[Any] | None:
    """Returns the tensors that a function joins, or None if it does not join tensors.

    The arguments are replaced by these tensors, so that both are the same objects.
    """
    if name in _OF_LISTS:
        first = next(iter(arguments))
        if hasattr(arguments[first], "shape"):
            return None
        inputs = [
            x if hasattr(x, "shape") else keras.ops.convert_to_tensor(x)
            for x in arguments[first]
        ]
        arguments[first] = list(inputs)
        return inputs
    inputs = [arguments["x1"], arguments["x2"]]
    data = all(map(is_tensor, inputs)) and any(rank(x) != 0 for x in inputs)
    if not data or (name == "append" and arguments["axis"] is None):
        return None
    return inputs


def _join(pass_: Pass, name: str, axis: int | None, inputs: list[Any]) -> TracedJoin:
    """Describes the join that a function of the backend's `numpy` is about to do."""
    frame, kind = pass_.frames[-1], FUNCTIONS[name]
    if name == "hstack":
        axis = 0 if rank(inputs[0]) == 1 else 1
    whole = isinstance(frame.operation, OPERATIONS[kind]) and not frame.joined
    if whole and frame.path:
        frame.joined = True
        return TracedJoin(frame.path, kind, axis, whole=True)
    path = frame.next_join(operation_name(kind))
    whose = ""
    if not pass_.computes:
        whose = origin(stack(inspect.currentframe()), frame.operation, kind)
    return TracedJoin(path, kind, axis, origin=whose)


def _loop(name: str, pass_: Pass, original: Call, /, *args: Any, **kwargs: Any) -> Any:
    if _signature(original).bind(*args, **kwargs).arguments.get("unroll"):
        return original(*args, **kwargs)
    pass_.listener.flush()
    pass_.loops.append(name)
    try:
        return original(*args, **kwargs)
    finally:
        pass_.loops.pop()


def _remat(pass_: Pass, original: Call, function: Call) -> Call:
    # A pass does not differentiate: without `remat`, the values are the same.
    return function


def _draw(pass_: Pass, original: Call, generator: Any, /, *args: Any, **kw: Any) -> Any:
    """Lets a generator of random numbers give its next seed."""
    pass_.draw(generator)
    return original(generator, *args, **kw)


def _random(pass_: Pass, original: Call, /, *args: Any, **kwargs: Any) -> Any:
    """Reports random numbers of symbolic tensors, for which PyTorch draws no seed."""
    seed = _signature(original).bind(*args, **kwargs).arguments.get("seed")
    if not pass_.computes and not isinstance(seed, int):
        pass_.draw(seed)
    return original(*args, **kwargs)


def points() -> list[Point]:
    """Returns the calls of Keras and of its backend that are wrapped.

    It raises a `ListeningError` if this release has moved one of them.
    """
    calls: list[Point] = [
        (keras.layers.Layer, "__init__", _layer_init),
        (keras.layers.Layer, "__call__", _layer_call),
        (keras.Operation, "__call__", _operation_call),
        (keras.Operation, "symbolic_call", _symbolic_call),
        (Functional, "_standardize_inputs", _standardize_inputs),
        (keras.random.SeedGenerator, "next", _draw),
    ]
    # Keras 3.16 moves the backend's functions to `ops`, and its loop to `rnn`.
    moves = hasattr(backend, "ops")
    ops = backend.ops if moves else backend
    numpy, core = private(ops, "numpy"), private(ops, "core")
    rnn = private(backend, "rnn") if moves else backend
    calls.append((rnn, "rnn", partial(_loop, RNN_LOOP)))
    # New in Keras 3.9.
    if hasattr(keras, "RematScope"):
        calls.append((ops if moves else core, "remat", _remat))
    random = backend if hasattr(backend, "random") else ops
    calls += [(random.random, name, _random) for name in RANDOM]
    calls += [(numpy, name, partial(_function, name)) for name in FUNCTIONS]
    calls += [(core, name, partial(_loop, f"`keras.ops.{name}`")) for name in LOOPS]
    calls += current_backend().points()
    for owner, name, _ in calls:
        if not callable(vars(owner).get(name)):
            raise moved(f"there is no `{owner.__name__}.{name}`")
    return calls


def _wrap(original: Call, handler: Call) -> Call:
    """Wraps a call: during a pass, a handler receives the pass and the original."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        pass_ = _current.get()
        if pass_ is None:
            return original(*args, **kwargs)
        return handler(pass_, original, *args, **kwargs)

    # Keras reads the arguments of `__init__`, and does not look behind a wrap.
    call.__dict__["__signature__"] = inspect.signature(original)
    return call


_lock = threading.Lock()
_holders = 0
# The owner, the name, the original and the wrapped call of each hook. They are cached:
# on PyTorch, every batch is a pass.
_hooks: list[tuple[Any, str, Call, Call]] = []


@contextmanager
def recording(pass_: Pass) -> Iterator[None]:
    """Reports the calls within this context to a pass."""
    _install()
    token = _current.set(pass_)
    try:
        with current_backend().retrace():
            yield
    finally:
        _current.reset(token)
        _remove()


@contextmanager
def unrecorded() -> Iterator[None]:
    """Reports no calls within this context."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def _install() -> None:
    global _holders
    with _lock:
        if not _holders:
            # An interrupt may have left some in place.
            _restore()
            if not _hooks or any(
                vars(owner).get(name) is not original
                for owner, name, original, _ in _hooks
            ):
                _hooks[:] = [
                    (owner, name, vars(owner)[name], _wrap(vars(owner)[name], handler))
                    for owner, name, handler in points()
                ]
            for owner, name, _, wrapped in _hooks:
                setattr(owner, name, wrapped)
        _holders += 1


def _remove() -> None:
    global _holders
    with _lock:
        _holders -= 1
        if not _holders:
            _restore()


def _restore() -> None:
    for owner, name, original, wrapped in _hooks:
        # A wrap that someone else has added since stays.
        if vars(owner).get(name) is wrapped:
            setattr(owner, name, original)
