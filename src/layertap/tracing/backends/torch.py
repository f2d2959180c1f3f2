"""Listening on PyTorch: there is no trace, each pass is heard as it runs."""

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from layertap.tracing.forward_pass import (
    Arrays,
    Joining,
    Pass,
    Point,
    Run,
    Shortcut,
    Step,
    is_tensor,
    rank,
)
from layertap.tracing.join_kinds import native_name, origin, stack
from layertap.tracing.keras_internals import private

FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys(
        (
            *(torch.cat, torch.concat, torch.concatenate, torch.hstack, torch.vstack),
            *(torch.dstack, torch.column_stack, torch.row_stack),
        ),
        "concatenate",
    ),
    torch.stack: "stack",
    **{
        getattr(owner, name): kind
        for kind, names in {
            "add": ("add", "add_", "__add__", "__iadd__"),
            "subtract": ("sub", "subtract", "sub_", "__sub__", "__isub__"),
            "multiply": ("mul", "multiply", "mul_", "__mul__", "__imul__"),
            "maximum": ("maximum", "max"),
            "minimum": ("minimum", "min"),
            "dot": ("matmul", "__matmul__", "bmm", "mm"),
        }.items()
        for owner in (torch, torch.Tensor)
        for name in names
        if hasattr(owner, name)
    },
}
# Axes of those that have no argument for it: for rows of one number, and of more.
AXES = {
    torch.hstack: (0, 1),
    torch.vstack: (0, 0),
    torch.row_stack: (0, 0),
    torch.dstack: (2, 2),
    torch.column_stack: (1, 1),
}


# Seconds of a pass of which hearing it may be a good part; and the number of batches
# of which one pass more is none.
_SMALL_PASS = 0.05
_MANY = 64


class FunctionEar(TorchFunctionMode):
    """Hears every function of PyTorch that the model calls.

    Args:
        heard: The pass to report to.
    """

    def __init__(self, heard: Pass) -> None:
        super().__init__()
        self._pass = heard

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs a function, and reports it if it is a join."""
        kwargs = kwargs or {}
        heard = self._pass
        if function is torch.Tensor.__bool__ and not heard.computes:
            self._decides()
        kind = FUNCTIONS.get(function)
        if kind not in heard.kinds or not heard.frames or not heard.listens:
            return function(*args, **kwargs)
        frame = heard.frames[-1]
        inputs = _inputs(kind, args, kwargs)
        if frame.covered or inputs is None:
            return function(*args, **kwargs)
        whose = origin(stack(inspect.currentframe()), frame.operation, kind)
        path = frame.child(native_name(kind, whose))
        axis = _axis(function, kind, inputs, args, kwargs)
        joining = Joining(path, kind, axis, origin=whose)
        heard.joins(joining, inputs)
        output = function(*args, **kwargs)
        heard.joined(joining, kwargs.get("out", output))
        return output

    def _decides(self) -> None:
        """Stops a survey where the user's code makes Python decide by a tensor.

        Raises:
            UndecidedError: If it does. A survey has no values to decide by.
        """
        frames = self._pass.frames
        if not frames or self._pass.loops:
            return
        caller = stack(inspect.currentframe())
        if not origin(caller, frames[-1].operation, "concatenate"):
            raise UndecidedError("a tensor was asked whether it is true")


class UndecidedError(Exception):
    """Python was to decide by values, which symbolic tensors do not have."""


def _inputs(kind: str, args: Any, kwargs: Any) -> list[Any] | None:
    """Returns what a function joins, or None if it joins none here."""
    if kind in ("concatenate", "stack"):
        inputs = list(args[0] if args else kwargs["tensors"])
        # Of one tensor, as the other backends have it, nothing is made.
        return inputs if kind == "stack" or len(inputs) > 1 else None
    inputs = [*args, *kwargs.values()][:2]
    data = all(is_tensor(x) and rank(x) != 0 for x in inputs)
    return inputs if data and len(inputs) == 2 else None


def _axis(
    function: Any, kind: str, inputs: list[Any], args: Any, kwargs: Any
) -> int | None:
    if function in AXES:
        return AXES[function][rank(inputs[0]) != 1]
    if kind not in ("concatenate", "stack"):
        return None
    axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    return int(axis)


def undecidable(error: BaseException) -> bool:
    """Whether a model decides in Python by values, which symbolic tensors lack."""
    return isinstance(error, UndecidedError)


def belongs(tensors: Sequence[Any]) -> Callable[[Any], bool]:
    """Returns that any tensor can be had: PyTorch runs eagerly."""
    return lambda tensor: True


def symbolic(tensor: Any) -> bool:
    """Whether a tensor has no values, as in a survey."""
    return not isinstance(tensor, torch.Tensor) or tensor.is_meta


def version(tensor: Any) -> int:
    """Returns how often a tensor was changed in place."""
    if isinstance(tensor, torch.Tensor) and not tensor.is_inference():
        found: int = private(tensor, "_version")
        return found
    return 0


def retrace() -> AbstractContextManager[Any]:
    """Returns a context in which everything is traced again: nothing is kept here."""
    return nullcontext()


def points(heard: Callable[[], Pass | None]) -> list[Point]:
    """Returns what is wrapped of PyTorch itself: nothing."""
    return []


def run_with_native_joins(heard: Pass, run: Callable[[Any], Any], inputs: Any) -> None:
    """Runs the model so that joins written with PyTorch are heard, too.

    Args:
        heard: The pass.
        run: The model's forward pass.
        inputs: What it takes.
    """
    with FunctionEar(heard):
        run(inputs)


def compile(
    run: Run, model: keras.Model, shortcut: Callable[[], Shortcut | None]
) -> Step:
    """Makes a step of a run of the model.

    Nothing is compiled here, so each batch would be heard anew. Where the model's own
    graph has all the wanted values, and gives for one batch what was heard, bit for
    bit, it is run from then on. That takes one more pass: of a small model it is the
    second batch that is run twice, of others a later one.

    Args:
        run: Takes the model's inputs and what to do with a tensor that is heard;
            returns the wanted tensors by address.
        model: The model; its variables are read, never assigned.
        shortcut: Makes another way to the wanted values, or None.

    Returns:
        The step.
    """
    hear = _Listening(run)
    short: Shortcut | None = None
    batches = 0
    tried = False

    def computed(inputs: Any) -> Arrays:
        nonlocal batches, short, tried
        if short is not None:
            return _ran(short, inputs)
        began = time.perf_counter()
        found = hear(inputs)
        batches += 1
        small = batches > 1 and time.perf_counter() - began < _SMALL_PASS
        if tried or not (small or batches == _MANY):
            return found
        tried = True
        # Where tensors are changed in place, it matters when each is taken.
        if not hear.in_place:
            short = shortcut()
            if short is not None and not _same(found, _ran(short, inputs)):
                short = None
        return found

    # Nothing is begun ahead: the model may use the memory of its values again.
    return lambda inputs: lambda: computed(inputs)


class _Listening:
    """A step that is heard, batch by batch.

    Attributes:
        in_place: Whether a tensor was seen that had been changed in place.
    """

    def __init__(self, run: Run) -> None:
        self.in_place = False
        self._run = run
        self._cloning = False

    def __call__(self, inputs: Any) -> Arrays:
        found, changed = self._hear(inputs)
        if changed:
            # The model changes tensors in place after it has joined them.
            self._cloning = True
            found, _ = self._hear(inputs)
        return {name: _array(tensor) for name, tensor in found.items()}

    def _hear(self, inputs: Any) -> tuple[dict[str, Any], bool]:
        kept: list[tuple[torch.Tensor, int]] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append((tensor, version(tensor)))
            self.in_place |= version(tensor) > 0
            # Of tensors of inference mode PyTorch does not count the changes.
            cloning = self._cloning or tensor.is_inference()
            return tensor.clone() if cloning else tensor

        with torch.no_grad(), keras.StatelessScope():
            found = self._run(_tensors(inputs), keep)
        changed = not self._cloning and any(
            version(tensor) != before for tensor, before in kept
        )
        self.in_place |= changed
        return found, changed


def _ran(short: Shortcut, inputs: Any) -> Arrays:
    with torch.no_grad(), keras.StatelessScope():
        found = short(_tensors(inputs))
    return {name: _array(tensor) for name, tensor in found.items()}


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """Returns the values of a tensor, without a copy where it is on the CPU."""
    if tensor.dtype == torch.bfloat16:
        # NumPy knows the bits, but not the dtype.
        bits = tensor.detach().cpu().contiguous().view(torch.int16).numpy()
        narrow: NDArray[Any] = bits.view(ml_dtypes.bfloat16)
        return narrow
    # PyTorch is faster than NumPy to bring axes into order.
    found: NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return found


def _tensors(inputs: Any) -> Any:
    # A copy: PyTorch would share the memory of the caller's array.
    return keras.tree.map_structure(
        lambda x: keras.ops.convert_to_tensor(np.array(x)), inputs
    )


def _same(one: Arrays, other: Arrays) -> bool:
    return all(
        array.dtype == other[name].dtype
        and array.shape == other[name].shape
        and array.tobytes() == other[name].tobytes()
        for name, array in one.items()
    )
