"""The wraps around Keras' own calls, and when they are in place.

Every layer goes through `Layer.__call__`, every operation (a layer too) through
`Operation.__call__`, and every join that is written with Keras ends in a function of
the backend's `numpy`. These are replaced while a pass is heard, and no longer. They
are process-wide while they last, so each asks a context variable whether it is meant:
another thread, or a model that runs inside the data, goes through unheard.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from layertap.tracing.backends import backend_module
from layertap.tracing.forward_pass import (
    Call,
    Frame,
    Joining,
    Pass,
    Point,
    is_tensor,
    rank,
    tensors_of,
)
from layertap.tracing.join_kinds import OPERATIONS, RNN_LOOP, WHOLE, origin, stack
from layertap.tracing.keras_internals import Functional, backend, moved, private

# Functions of the backend's `numpy` by name, and the kind of join that they do.
FUNCTIONS = {
    "concatenate": "concatenate",
    "hstack": "concatenate",
    "append": "concatenate",
    "stack": "stack",
    "add": "add",
    "subtract": "subtract",
    "multiply": "multiply",
    "maximum": "maximum",
    "minimum": "minimum",
    "dot": "dot",
    "matmul": "dot",
}

# Bodies of these run in a trace of their own, or as often as the data say, or not.
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

_heard: ContextVar[Pass | None] = ContextVar("layertap_pass", default=None)


def _layer_call(original: Call) -> Call:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        heard = _heard.get()
        if heard is None or not heard.listens:
            return original(self, *args, **kwargs)
        return _through(heard, original, self, args, kwargs)

    return call


def _operation_call(original: Call) -> Call:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        heard = _heard.get()
        if heard is None:
            return original(self, *args, **kwargs)
        frame = heard.frames[-1] if heard.frames else None
        if frame is not None and frame.operation is self and not frame.inside:
            # A layer: `Layer.__call__` has opened the frame.
            return _inside(heard, frame, original, args, kwargs)
        if not heard.listens:
            return original(self, *args, **kwargs)
        return _through(heard, call, self, args, kwargs)

    return call


def _symbolic_call(original: Call) -> Call:
    @functools.wraps(original)
    def symbolic_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = original(self, *args, **kwargs)
        heard = _heard.get()
        if heard is not None and heard.symbolic and heard.frames and heard.listens:
            heard.symbolically(self, args, kwargs, outputs)
        return outputs

    return symbolic_call


def _through(
    heard: Pass, original: Call, operation: Any, args: Any, kwargs: Any
) -> Any:
    frame = heard.enter(operation, args, kwargs)
    try:
        with heard.ear.covered():
            outputs = original(operation, *args, **kwargs)
        heard.leave(frame, outputs)
        return outputs
    except Exception as error:
        heard.fails(error, frame)
        raise
    finally:
        heard.frames.pop()


def _inside(heard: Pass, frame: Frame, original: Call, args: Any, kwargs: Any) -> Any:
    heard.begin(frame, args, kwargs)
    joining = _whole_join(heard, frame)
    try:
        if joining is not None:
            heard.joins(
                joining, _inputs_of(frame.operation, joining.kind, args, kwargs)
            )
        with heard.ear.scope(frame):
            outputs = heard.run(frame, original, args, kwargs)
        heard.ear.moves()
        if joining is not None:
            heard.joined(joining, tensors_of(outputs)[0])
        return outputs
    finally:
        frame.inside = False


def _whole_join(heard: Pass, frame: Frame) -> Joining | None:
    """Returns the join that an operation is as a whole, if it is one."""
    for kind in heard.kinds & WHOLE.keys():
        if isinstance(frame.operation, WHOLE[kind]) and frame.path:
            frame.covered = True
            return Joining(frame.path, kind, None, whole=True)
    return None


def _inputs_of(operation: Any, kind: str, args: Any, kwargs: Any) -> list[Any]:
    """Returns what a layer joins: its arguments; of attention query, key and value."""
    if kind != "attention":
        return tensors_of(args[0] if args else kwargs)
    given = inspect.signature(operation.call).bind(*args, **kwargs).arguments
    if "inputs" in given:
        query, value, *rest = given["inputs"]
        key = rest[0] if rest else None
    else:
        query, value, key = given["query"], given["value"], given.get("key")
    return [query, value if key is None else key, value]


def _standardize_inputs(original: Call) -> Call:
    @functools.wraps(original)
    def standardize(self: Any, inputs: Any) -> Any:
        outputs = original(self, inputs)
        heard = _heard.get()
        if heard is not None and heard.listens:
            before, after = keras.tree.flatten(inputs), keras.tree.flatten(outputs)
            if len(before) == len(after):
                for pair in zip(before, after, strict=True):
                    heard.converted(*pair)
        return outputs

    return standardize


def _function(name: str) -> Callable[[Call], Call]:
    kind = FUNCTIONS[name]

    def wrap(original: Call) -> Call:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            heard = _heard.get()
            if heard is None or not heard.frames or not heard.listens:
                return original(*args, **kwargs)
            # Concatenations have to be counted: they share their names with layers.
            wanted = kind in heard.kinds or kind == "concatenate"
            if not wanted or heard.frames[-1].covered:
                return original(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            inputs = _joined_by(name, given.arguments)
            if inputs is None:
                return original(*args, **kwargs)
            heard.ear.moves()
            joining = _joining(heard, name, kind, given.arguments, inputs)
            heard.joins(joining, inputs)
            with _covered(heard):
                output = original(*given.args, **given.kwargs)
            heard.joined(joining, output)
            return output

        return function

    return wrap


@contextmanager
def _covered(heard: Pass) -> Iterator[None]:
    """Lets nothing be heard of what a join does to become one."""
    frame = heard.frames[-1]
    frame.covered = True
    try:
        with heard.ear.covered():
            yield
        heard.ear.moves()
    finally:
        frame.covered = False


def _joined_by(name: str, given: dict[str, Any]) -> list[Any] | None:
    """Returns the tensors that a function joins, or None if it joins none here.

    The arguments are changed so that what is joined is what was heard.
    """
    first = next(iter(given))
    if name in ("concatenate", "hstack", "stack"):
        if hasattr(given[first], "shape"):
            return None
        given[first] = [
            x if hasattr(x, "shape") else backend.convert_to_tensor(x)
            for x in given[first]
        ]
        return list(given[first])
    inputs = [given["x1"], given["x2"]]
    data = all(is_tensor(x) and rank(x) != 0 for x in inputs)
    if not data or (name == "append" and given["axis"] is None):
        return None
    return inputs


def _joining(
    heard: Pass, name: str, kind: str, given: dict[str, Any], inputs: list[Any]
) -> Joining:
    frame = heard.frames[-1]
    whole = isinstance(frame.operation, OPERATIONS[kind])
    whole = whole and not frame.joined and bool(frame.path)
    if whole:
        frame.joined, path = True, frame.path
    else:
        path = frame.child(kind if kind == "concatenate" else f"ops.{kind}")
    axis = given.get("axis")
    if name == "hstack":
        axis = 0 if rank(inputs[0]) == 1 else 1
    whose = ""
    if not whole and not heard.computes:
        whose = origin(stack(inspect.currentframe()), frame.operation, kind)
    return Joining(path, kind, axis, whole, whose)


def _loop(name: str) -> Callable[[Call], Call]:
    def wrap(original: Call) -> Call:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def loop(*args: Any, **kwargs: Any) -> Any:
            heard = _heard.get()
            if heard is None:
                return original(*args, **kwargs)
            if signature.bind(*args, **kwargs).arguments.get("unroll"):
                return original(*args, **kwargs)
            heard.ear.moves()
            heard.loops.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                heard.loops.pop()

        return loop

    return wrap


def _remat(original: Call) -> Call:
    @functools.wraps(original)
    def remat(function: Call) -> Call:
        # Nothing is differentiated: without it, values are the same and can be had.
        return original(function) if _heard.get() is None else function

    return remat


def points() -> list[Point]:
    """Returns what is wrapped of Keras and of its backend.

    Raises:
        ListeningError: If this release has moved one of them.
    """
    found: list[Point] = [
        (keras.layers.Layer, "__call__", _layer_call),
        (keras.Operation, "__call__", _operation_call),
        (keras.Operation, "symbolic_call", _symbolic_call),
        (Functional, "_standardize_inputs", _standardize_inputs),
        (backend, "rnn", _loop(RNN_LOOP)),
    ]
    numpy, core = private(backend, "numpy"), private(backend, "core")
    # Keras 3.9 has brought it.
    if hasattr(keras, "RematScope"):
        found.append((core, "remat", _remat))
    found += [(numpy, name, _function(name)) for name in FUNCTIONS]
    found += [(core, name, _loop(f"`keras.ops.{name}`")) for name in LOOPS]
    found += backend_module().points(_heard.get)
    for owner, name, _ in found:
        if not callable(vars(owner).get(name)):
            raise moved(f"there is no `{owner.__name__}.{name}`")
    return found


_lock = threading.Lock()
_holders = 0
_replaced: list[tuple[Any, str, Call, Call]] = []
# Made once: on PyTorch, every batch is heard on its own.
_wraps: list[tuple[Any, str, Call, Call]] = []


@contextmanager
def recording(heard: Pass) -> Iterator[None]:
    """Reports the calls of this context to `heard`, for as long as it lasts."""
    _hold()
    token = _heard.set(heard)
    try:
        with backend_module().retrace():
            yield
    finally:
        _heard.reset(token)
        _release()


def _hold() -> None:
    global _holders
    with _lock:
        if not _holders:
            if (
                any(
                    vars(owner).get(name) is not original
                    for owner, name, original, _ in _wraps
                )
                or not _wraps
            ):
                _wraps[:] = [
                    (owner, name, vars(owner)[name], wrap(vars(owner)[name]))
                    for owner, name, wrap in points()
                ]
            for each in _wraps:
                owner, name, _, wrapped = each
                setattr(owner, name, wrapped)
                _replaced.append(each)
        _holders += 1


def _release() -> None:
    global _holders
    with _lock:
        _holders -= 1
        if _holders:
            return
        while _replaced:
            owner, name, original, wrapped = _replaced.pop()
            # Where somebody else has wrapped the call since, theirs stays.
            if vars(owner).get(name) is wrapped:
                setattr(owner, name, original)
