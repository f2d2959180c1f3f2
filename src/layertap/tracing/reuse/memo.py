"""Plans and passes of a model, kept for as long as the model stays as it is."""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import keras

from layertap.core.lru import LRU
from layertap.tracing.model_structure import attach_variables
from layertap.tracing.reuse.parts import MEMO
from layertap.tracing.reuse.snapshot import Snapshot

Made = TypeVar("Made")

# How many plans and passes a model keeps: of each selection of values, two or three.
_MOST = 24


class Memo:
    """The plans and passes of a model, and its snapshot."""

    def __init__(self, model: keras.Model) -> None:
        self.snapshot = Snapshot(model)
        # Each with the snapshot of a function of the user that it calls.
        self.made: LRU[Hashable, tuple[Any, Snapshot]] = LRU(_MOST)
        # Held while the model is traced.
        self.lock = threading.RLock()

    def __reduce__(self) -> Any:
        """Leaves the memo out of copies of the model."""
        return type(None), ()

    def get(self, key: Hashable) -> Any:
        """Returns a kept result if its function is the same, or None."""
        found, function = self.made.get(key) or (None, None)
        return found if function is not None and function.holds() else None


class _Compared(threading.local):
    """The memo of the model that a thread has compared, for as long as that counts."""

    memo: Memo | None = None


# Not a context variable: contexts are copied, and a copy would never compare again.
_compared = _Compared()


def remembered(
    model: keras.Model,
    key: Hashable,
    make: Callable[[], Made],
    *,
    calls: Any = None,
    keep: Callable[[Made], bool] = lambda made: True,
) -> Made:
    """Returns an earlier result for an unchanged model, or makes and keeps it.

    It depends on a function of the user too, which it `calls`. `keep` returns whether
    a result holds for other data as well.
    """
    with compared_once(model) as memo:
        found = memo.get(key)
        if found is not None:
            return found
        with memo.lock:
            # Another thread may have made it.
            found = memo.get(key)
            if found is not None:
                return found
            state, variables = Snapshot(calls), len(model.variables)
            found = make()
            if len(model.variables) != variables:
                # It was built.
                vars(model)[MEMO].snapshot = Snapshot(model)
            if keep(found):
                # The model's `call` may have changed the model.
                _compared.memo = memo = _memo(model)
                memo.made.put(key, (found, state))
        return found


@contextmanager
def compared_once(model: keras.Model) -> Iterator[Memo]:
    """Compares a model with its snapshot once for all that is done in the context.

    No code of the user may run in it, such as that of the data, but the model's own.
    """
    before = _compared.memo
    if before is not None and vars(model).get(MEMO) is before:
        yield before
        return
    attach_variables(model)
    _compared.memo = memo = _memo(model)
    try:
        yield memo
    finally:
        _compared.memo = before


@contextmanager
def tracing(model: keras.Model) -> Iterator[None]:
    """Lets one thread run the model's Python, which may store results in layers."""
    memo = vars(model).get(MEMO)
    if memo is None:
        yield
        return
    with memo.lock:
        yield
        memo.snapshot.settle()


def _memo(model: keras.Model) -> Memo:
    """Returns the memo of a model: an empty one if the model was changed."""
    memo = vars(model).get(MEMO)
    if memo is not None and not memo.snapshot.holds():
        # Another thread may be tracing it.
        with memo.lock:
            if not memo.snapshot.holds():
                memo = None
    if memo is None:
        memo = vars(model)[MEMO] = Memo(model)
    return memo
