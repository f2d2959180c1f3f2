"""The wraps around Keras' own calls, and when they are in place.

Every layer goes through `Layer.__call__`, every operation (a layer too) through
`Operation.__call__`, and every concatenation that is written with Keras ends in the
backend's `numpy.concatenate`. These are replaced while a pass is heard, and no
longer. They are process-wide while they last, so each asks a context variable
whether it is meant: another thread, or a model that runs inside the data, goes
through unheard.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from layertap.listening.passes import Pass
from layertap.listening.private import Concatenate, Functional, backend, moved, private

Call = Callable[..., Any]

CONCATENATES = (keras.layers.Concatenate, Concatenate)

# Bodies of these run in a trace of their own, or as often as the data say.
LOOPS = (
    "associative_scan",
    "fori_loop",
    "map",
    "scan",
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
            heard.begin(frame, args, kwargs)
            try:
                return original(self, *args, **kwargs)
            finally:
                frame.inside = False
        if not heard.listens:
            return original(self, *args, **kwargs)
        return _through(heard, call, self, args, kwargs)

    return call


def _through(
    heard: Pass, original: Call, operation: Any, args: Any, kwargs: Any
) -> Any:
    frame = heard.enter(operation, args, kwargs)
    try:
        outputs = original(operation, *args, **kwargs)
        heard.leave(frame, outputs)
        return outputs
    finally:
        heard.frames.pop()


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


def _concatenate(original: Call) -> Call:
    @functools.wraps(original)
    def concatenate(xs: Any, axis: int = 0) -> Any:
        heard = _heard.get()
        if heard is None or not heard.frames or not heard.listens:
            return original(xs, axis=axis)
        inputs = [
            x if hasattr(x, "shape") else backend.convert_to_tensor(x) for x in xs
        ]
        path = heard.join_path(CONCATENATES, "concatenate")
        heard.join_inputs(path, "concatenate", axis, inputs)
        output = original(inputs, axis=axis)
        heard.join_output(path, output)
        return output

    return concatenate


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
            heard.loops.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                heard.loops.pop()

        return loop

    return wrap


def points() -> list[tuple[Any, str, Callable[[Call], Call]]]:
    """Returns what is wrapped: where it stands, its name, and its wrap.

    Raises:
        ListeningError: If this release of Keras has moved one of them.
    """
    rnn = "the loop of a recurrent layer; `unroll=True` on that layer would let it out"
    found: list[tuple[Any, str, Callable[[Call], Call]]] = [
        (keras.layers.Layer, "__call__", _layer_call),
        (keras.Operation, "__call__", _operation_call),
        (Functional, "_standardize_inputs", _standardize_inputs),
        (private(backend, "numpy"), "concatenate", _concatenate),
        (backend, "rnn", _loop(rnn)),
    ]
    core = private(backend, "core")
    found += [(core, name, _loop(f"`keras.ops.{name}`")) for name in LOOPS]
    for owner, name, _ in found:
        if not callable(vars(owner).get(name)):
            raise moved(f"there is no `{owner.__name__}.{name}`")
    return found


_lock = threading.Lock()
_holders = 0
_replaced: list[tuple[Any, str, Call, Call]] = []


@contextmanager
def hearing(heard: Pass) -> Iterator[None]:
    """Reports the calls of this context to `heard`, for as long as it lasts."""
    _hold()
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)
        _release()


def _hold() -> None:
    global _holders
    with _lock:
        if not _holders:
            for owner, name, wrap in points():
                original = vars(owner)[name]
                wrapped = wrap(original)
                setattr(owner, name, wrapped)
                _replaced.append((owner, name, original, wrapped))
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
