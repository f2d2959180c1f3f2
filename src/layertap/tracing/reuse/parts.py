"""The parts of a model: all objects that a trace may read, and their members."""

import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain
from operator import is_not, itemgetter
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from layertap.tracing.keras_internals import Node

# The attribute of a model that has its memo: both are freed together.
MEMO = "_layertap_memo"
# What Keras notes in any layer while it runs, builds and saves models.
_OF_LAYERS = frozenset(
    [
        *("_losses", "_loss_ids", "_metrics", "_inbound_nodes", "_outbound_nodes"),
        *("_called", "_torch_params", "is_awq_calibrated", "is_gptq_calibrated"),
    ]
)
# What compiling, training and predicting change in a model.
_OF_MODELS = _OF_LAYERS | {
    *("_compile_config", "_compile_loss", "_compile_metrics", "_loss_tracker"),
    *("_compiled_trainable_state", "compiled", "history", "loss", "optimizer"),
    *("predict_function", "train_function", "test_function", "_jit_compile"),
    *("stop_predicting", "stop_training", "stop_evaluating", "_losses_override"),
    *("_eval_epoch_iterator", "_jax_state", MEMO),
}
# Python's own attributes, and TensorFlow's about checkpoints.
_KEPT_OUT = ("__", "_self_")
# Libraries wherever they are installed.
_LIBRARIES = ("jax", "jaxlib", "keras", "layertap", "numpy", "tensorflow", "torch")
_FUNCTIONS = (types.FunctionType, types.MethodType, partial)
# Larger containers are compared by equality.
_LARGE = 1000
_MISSING = object()
# Types without members, which most members have.
SIMPLE = frozenset([bool, int, float, str, type(None)])
# What counts of a module: numbers, texts and containers.
_PLAIN: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None)),
    *(tuple, list, dict, set, frozenset, np.ndarray),
)


class Part:
    """An object that a trace may have read, with its members at one time.

    Args:
        sized: A container whose length changes if members are added or removed.
        read: Returns the members, always in one order.
    """

    def __init__(self, sized: Any, read: Callable[[], Any]) -> None:
        self.sized, self.count, self.read = sized, len(sized), read
        self.members = tuple(read())

    def parts(self) -> Iterator[Any]:
        """Yields the members, which may be parts themselves."""
        yield from self.members

    def holds(self) -> bool:
        """Whether the object has the same members."""
        if len(self.sized) != self.count:
            return False
        return not any(map(is_not, self.read(), self.members))

    def settle(self) -> None:
        """Keeps the members as they are: only attributes are stored by a `call`."""


class Large(Part):
    """A container with many members: equality, which is faster, looks at them."""

    def __init__(self, found: Any) -> None:
        kinds = (dict, list, tuple, set, frozenset, deque)
        kind = next(kind for kind in kinds if isinstance(found, kind))
        before: Any = kind(found)
        super().__init__(found, lambda: [_equal(found, before)])
        self._before = before

    def parts(self) -> Iterator[Any]:
        """Yields the members, which may be parts themselves."""
        yield from self._before
        if isinstance(self._before, dict):
            yield from self._before.values()


class Attributes(Part):
    """The attributes of an object, without some that don't count."""

    def __init__(self, own: Any, ignored: frozenset[str] = frozenset()) -> None:
        self._ignored = ignored
        self._names = self._kept(own)
        super().__init__(own, self._reader(own))

    def _kept(self, own: Any) -> list[str]:
        return [
            name
            for name in [*own]
            if name not in self._ignored and not name.startswith(_KEPT_OUT)
        ]

    def _reader(self, own: Any) -> Callable[[], Any]:
        if not self._names:
            return tuple
        # Twice the first: of one name, it would return the value alone.
        return partial(itemgetter(self._names[0], *self._names), own)

    def holds(self) -> bool:
        """Whether the object has the same attributes, with the same values."""
        try:
            if len(self.sized) != self.count:
                names = self._kept(self.sized)
                if names != self._names:
                    return False
                self.count = len(self.sized)
            return not any(map(is_not, self.read(), self.members))
        except KeyError:
            return False

    def settle(self) -> None:
        """Accepts tensors as new values: results that the model's `call` stored."""
        names = self._kept(self.sized)
        before = dict(zip(self._names, self.members[1:], strict=True))
        now = {name: self.sized.get(name) for name in names}
        changed = [v for n, v in now.items() if v is not before.get(n, _MISSING)]
        if before.keys() <= now.keys() and all(map(_is_result, changed)):
            self._names = names
            self.count, self.read = len(self.sized), self._reader(self.sized)
            self.members = tuple(self.read())


def part_of(found: Any) -> Part | None:
    """Returns an object as a part with members; None if it counts as itself."""
    if type(found) in weakref.ProxyTypes:
        return None
    if isinstance(found, keras.Operation):
        return Attributes(vars(found), _ignored_by(found))
    if isinstance(found, keras.DTypePolicy | Node):
        return Attributes(vars(found))
    if isinstance(found, dict | list | tuple | set | frozenset | deque):
        if len(found) > _LARGE:
            return Large(found)
        both = (
            partial(chain, found, found.values()) if isinstance(found, dict) else None
        )
        return Part(found, both or found.__iter__)
    if isinstance(found, np.ndarray) and found.dtype != object:
        return Part((), partial(_content, found))
    if isinstance(found, _FUNCTIONS):
        of_library = isinstance(found, types.FunctionType) and not _is_users(found)
        return None if of_library else Part((), partial(_read_by, found))
    if isinstance(found, types.ModuleType):
        if not _is_users(found):
            return None
        own = vars(found)
        return Part((), lambda: [*filter(_is_plain, [*own.values()])])
    if isinstance(found, type):
        return Attributes(vars(found)) if _is_users(found) else None
    if not _is_users(type(found)):
        return None
    slots = [
        name
        for kind in type(found).__mro__
        for name in _listed(vars(kind).get("__slots__", ()))
        if not name.startswith("__")
    ]
    if slots:
        return Part((), partial(_read_slots, found, slots))
    return Attributes(vars(found)) if hasattr(found, "__dict__") else None


def _read_slots(found: Any, slots: list[str]) -> list[Any]:
    own = getattr(found, "__dict__", {})
    return [*(getattr(found, name, None) for name in slots), *own.values()]


def _ignored_by(operation: keras.Operation) -> frozenset[str]:
    """Returns the attributes that Keras changes without changing an operation."""
    ignored = _OF_MODELS if isinstance(operation, keras.Model) else _OF_LAYERS
    return ignored | _of_modules() if keras.backend.backend() == "torch" else ignored


@cache
def _of_modules() -> frozenset[str]:
    """Returns PyTorch's own attributes of a module, but for the layers inside it."""
    return frozenset(vars(sys.modules["torch"].nn.Module())) - {"_modules"}


def _read_by(function: Any) -> list[Any]:
    """Returns what a function reads besides its arguments."""
    if isinstance(function, partial):
        return [function.func, function.args, function.keywords]
    if isinstance(function, types.MethodType):
        return [function.__func__, function.__self__]
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    names = _names_in(function.__code__)
    named = [function.__globals__[n] for n in names if n in function.__globals__]
    defaults = function.__defaults__, function.__kwdefaults__
    return [function.__code__, *cells, *defaults, *filter(_is_read, named)]


@cache
def _names_in(code: types.CodeType) -> list[str]:
    """Returns the names that code reads, and the functions that it defines."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return [*code.co_names, *(name for part in inner for name in _names_in(part))]


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # It has none yet.
        return _MISSING


def _content(array: NDArray[Any]) -> list[Any]:
    """Returns the digest of an array, as an object that is the same for the same."""
    digest = xxhash.xxh3_64_intdigest(array.tobytes())
    return [sys.intern(f"{digest} {array.shape} {array.dtype}")]


def _is_read(value: Any) -> bool:
    """Whether a global counts: not a class or an object of a library."""
    if isinstance(value, (*_PLAIN, types.FunctionType)):
        return True
    return _is_users(value if isinstance(value, type) else type(value))


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN)


def _is_result(value: Any) -> bool:
    """Whether a `call` may have stored a value, rather than the user."""
    return keras.ops.is_tensor(value) or isinstance(value, keras.KerasTensor)


def _is_users(kind: Any) -> bool:
    """Whether a class, a function or a module is not of Python or of a library."""
    if kind is types.SimpleNamespace:
        return True
    # A module has a name alone.
    return _is_users_module(str(getattr(kind, "__module__", None) or kind.__name__))


@cache
def _is_users_module(name: str) -> bool:
    top = name.partition(".")[0]
    if top in _LIBRARIES or top in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else [*slots]


def _equal(now: Any, before: Any) -> bool:
    try:
        return bool(now == before)
    except Exception:
        # Arrays and tensors have no truth value: another one is there.
        return False
