"""Tracing on PyTorch: it runs eagerly, so that each batch is a pass."""

import functools
import inspect
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import ml_dtypes
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from layertap.core import tolerance
from layertap.errors import RefusedError
from layertap.tracing.backends import Backend
from layertap.tracing.backends.gathered import forms, split
from layertap.tracing.forward_pass import (
    Arrays,
    Collector,
    Differentiable,
    Pass,
    Run,
    Shortcut,
    Step,
    Tensors,
    is_tensor,
    rank,
)
from layertap.tracing.join_kinds import origin, stack
from layertap.tracing.keras_internals import private
from layertap.tracing.model_structure import layers_of, map_arrays
from layertap.tracing.records import TracedJoin

# The axes of functions without such an argument: for vectors, and for other tensors.
AXES = {
    torch.hstack: (0, 1),
    torch.vstack: (0, 0),
    torch.row_stack: (0, 0),
    torch.dstack: (2, 2),
    torch.column_stack: (1, 1),
}
# The kind of join of functions and methods.
FUNCTIONS = {
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate, *AXES), "concatenate"),
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


# A shorter pass, in seconds, may spend much of its time on tracing. In a longer one,
# that is a few percent: after this number of batches, one more pass pays.
_SMALL_PASS = 0.05
_MANY = 16
# PyTorch adds so many numbers in up to four threads.
_PARALLEL = 2**17


class FunctionListener(TorchFunctionMode):
    """Detects every function of PyTorch that the model calls."""

    def __init__(self, pass_: Pass) -> None:
        super().__init__()
        self._pass = pass_

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs a function, and reports it if it is a join."""
        kwargs = kwargs or {}
        pass_ = self._pass
        if function is torch.Tensor.__bool__ and not pass_.computes:
            self._check_decision()
        kind = FUNCTIONS.get(function, "")
        if kind not in pass_.kinds or not pass_.frames or not pass_.listens:
            return function(*args, **kwargs)
        frame = pass_.frames[-1]
        inputs = _inputs(kind, args, kwargs)
        if frame.covered or inputs is None:
            return function(*args, **kwargs)
        axis = _axis(function, kind, inputs, args, kwargs)
        join = frame.native_join(kind, axis, stack(inspect.currentframe()))
        written = pass_.write("in", join.path, inputs)
        if written is not None:
            _refuse_in_place(function, join)
            inputs = written
            args, kwargs = _with_inputs(kind, inputs, args, kwargs)
        join = pass_.begin_join(join, inputs)
        output = function(*args, **kwargs)
        pass_.end_join(join, kwargs.get("out", output))
        return output

    def _check_decision(self) -> None:
        """Raises if user code lets Python decide by a tensor of a survey."""
        frames = self._pass.frames
        if not frames or self._pass.loops:
            return
        caller = stack(inspect.currentframe())
        if not origin(caller, frames[-1].operation, "concatenate"):
            raise UndecidedError("Python asked for the truth value of a tensor")


class UndecidedError(Exception):
    """Python had to decide by values, which symbolic tensors do not have."""


def _inputs(kind: str, args: Any, kwargs: Any) -> list[Any] | None:
    """Returns the tensors that a function joins, or None if it does not join any."""
    if kind in ("concatenate", "stack"):
        inputs = list(args[0] if args else kwargs["tensors"])
        # Same as on the other backends: a concatenation of one tensor is not a join.
        return inputs if kind == "stack" or len(inputs) > 1 else None
    inputs = [*args, *kwargs.values()][:2]
    data = all(is_tensor(x) and rank(x) != 0 for x in inputs)
    return inputs if data and len(inputs) == 2 else None


def _refuse_in_place(function: Any, join: TracedJoin) -> None:
    """Raises if a join writes into one of its branches, which others may hold."""
    name = function.__name__
    if name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
        raise RefusedError(
            f"Values of {join.path} can't be replaced: it writes into a tensor of the "
            f"model (`{name}`). Replace a value that is computed before or after it."
        )


def _with_inputs(kind: str, inputs: list[Any], args: Any, kwargs: Any) -> Any:
    """Returns arguments with other tensors than `_inputs` returned."""
    if kind not in ("concatenate", "stack"):
        later = zip(kwargs, inputs[len(args) :], strict=False)
        return (*inputs[: len(args)], *args[2:]), kwargs | dict(later)
    if args:
        return (inputs, *args[1:]), kwargs
    return args, kwargs | {"tensors": inputs}


def _axis(
    function: Any, kind: str, inputs: list[Any], args: Any, kwargs: Any
) -> int | None:
    if function in AXES:
        return AXES[function][rank(inputs[0]) != 1]
    if kind not in ("concatenate", "stack"):
        return None
    return int(args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0)))


class Torch(Backend):
    """Tracing on PyTorch. Nothing is traced beforehand, so every tensor belongs."""

    # A model may write into its own tensors.
    reuses_memory = True

    def compile(self, run: Collector, model: keras.Model, shortcut: Shortcut) -> Step:
        """Makes a step that runs eagerly."""
        return _EagerStep(run, shortcut)

    def begin(
        self, step: Step, inputs: Any, full: int | None = None
    ) -> Callable[[], Arrays]:
        """Begins a step on a GPU.

        Nothing begins early on a CPU: the model may use the memory of its values again.
        """
        if torch.cuda.is_available():
            return copied(step(inputs))
        return lambda: _arrays(step(inputs))

    def differentiate(self, run: Differentiable) -> tuple[Tensors, Tensors]:
        """Returns the derivatives of a number; the run is recorded from the first mark.

        A model may change a marked tensor in place: it gets a copy.
        """
        marked: dict[str, torch.Tensor] = {}

        def mark(name: str, tensor: torch.Tensor) -> torch.Tensor:
            torch.set_grad_enabled(True)
            recorded = tensor.requires_grad
            tensor = tensor.clone() if recorded else tensor.detach().requires_grad_()
            marked[name] = tensor
            return tensor.clone()

        with torch.no_grad():
            number, others = run(mark)
        if not number.requires_grad:
            return {}, others
        found = torch.autograd.grad(number, [*marked.values()], allow_unused=True)
        pairs = zip(marked, found, strict=True)
        return {name: part for name, part in pairs if part is not None}, others

    def run_with_native_joins(self, pass_: Pass, run: Run, inputs: Any) -> None:
        """Runs the model, and detects the functions of PyTorch that it calls."""
        with FunctionListener(pass_):
            run(inputs)

    def undecidable(self, error: BaseException) -> bool:
        """Whether Python had to decide by values that symbolic tensors do not have."""
        return isinstance(error, UndecidedError)

    @staticmethod
    def version(tensor: Any) -> int:
        """Returns how often a tensor was changed in place, as far as PyTorch counts."""
        if isinstance(tensor, torch.Tensor) and not tensor.is_inference():
            return private(tensor, "_version")
        return 0

    def symbolic_variables(self, model: keras.Model) -> AbstractContextManager[Any]:
        """Returns a context in which Keras casts the variables of a survey, too.

        In mixed precision, it does not cast the symbolic tensors that it has in their
        place, so that outputs would be float32. It casts the variables of a scope.
        """
        policies = (part.dtype_policy for part in [model, *layers_of(model)])
        if all(one.compute_dtype == one.variable_dtype for one in policies):
            return nullcontext()
        return keras.StatelessScope([(v, v.value) for v in model.variables])

    def share_processors(self) -> None:
        """Lets idle threads of PyTorch sleep, until the calling thread ends.

        While they wait for work, they spin, and delay whatever else runs. On Linux,
        libgomp spins a thousand times less if it has more threads than processors (see
        `GOMP_SPINCOUNT`): a parallel addition in this thread starts some more.
        """
        if sys.platform == "linux":
            torch.add(torch.empty(_PARALLEL, device="cpu"), 1)


class _EagerStep:
    """A step that traces each batch, until the shortcut is known to be right.

    The shortcut, the model's own graph, has to give the same bits for one batch. For a
    small model that is the second batch, otherwise a later one.
    """

    def __init__(self, run: Collector, shortcut: Shortcut) -> None:
        self._collector = run
        # Until it is tried.
        self._make_shortcut: Shortcut | None = shortcut
        self._shortcut: Any = None
        self._batches = 0
        # Whether the model changes any tensor in place, and a collected one later.
        self._in_place = False
        self._cloning = False

    def __call__(self, inputs: Any) -> Tensors:
        if self._shortcut is not None:
            return _run_batch(self._shortcut, inputs)
        began = time.perf_counter()
        tensors = self._collect(inputs)
        self._batches += 1
        small = self._batches > 1 and time.perf_counter() - began < _SMALL_PASS
        make = self._make_shortcut
        if make and (small or self._batches >= _MANY):
            self._make_shortcut = None
            # A graph returns the last value of tensors that are changed in place.
            shortcut = None if self._in_place else make()
            if shortcut and _same(tensors, _run_batch(shortcut, inputs)):
                self._shortcut = shortcut
        return tensors

    def _collect(self, inputs: Any) -> Tensors:
        versions: list[tuple[torch.Tensor, int]] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            versions.append((tensor, Torch.version(tensor)))
            self._in_place |= versions[-1][1] > 0
            # PyTorch does not count the changes of tensors in inference mode.
            cloning = self._cloning or tensor.is_inference()
            return tensor.clone() if cloning else tensor

        tensors = _run_batch(self._collector, inputs, keep)
        if self._cloning or all(Torch.version(t) == was for t, was in versions):
            return tensors
        # The model changes tensors in place after it has joined them.
        self._in_place = self._cloning = True
        return self._collect(inputs)


def _run_batch(function: Any, inputs: Any, *args: Any) -> Tensors:
    """Runs a function on tensors of a batch; nothing is differentiated or assigned."""
    # Nothing can be differentiated in the inference mode of a caller.
    with torch.inference_mode(False), torch.no_grad(), keras.StatelessScope():
        # Keras copies arrays: the model may change a tensor in place.
        tensors = map_arrays(keras.ops.convert_to_tensor, inputs)
        values = function(tensors, *args)
    return {name: tensor.detach() for name, tensor in values.items()}


def copied(tensors: Tensors) -> Callable[[], Arrays]:
    """Begins to copy values to the host, and returns a function that waits for them.

    They are gathered on the device first, where a later pass may write into them.
    """
    ordered = forms(tensors)
    parts = [tensors[form.name].contiguous().view(-1) for form in ordered]
    gathered = torch.cat([part.view(torch.uint8) for part in parts])
    if not gathered.is_cuda:
        return lambda: split(gathered.numpy(), ordered)
    host = torch.empty(gathered.shape, dtype=torch.uint8, pin_memory=True)
    stream = _copies(gathered.device)
    stream.wait_stream(torch.cuda.current_stream(gathered.device))
    with torch.cuda.stream(stream):
        host.copy_(gathered, non_blocking=True)
        done = stream.record_event()
    # Its memory is free for others after the copy.
    gathered.record_stream(stream)

    def wait() -> Arrays:
        done.synchronize()
        return split(host.numpy(), ordered)

    return wait


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """Returns the stream for copies: the next batch has another."""
    return torch.cuda.Stream(device)


def _arrays(tensors: Tensors) -> Arrays:
    return {name: _array(tensor) for name, tensor in tensors.items()}


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """Returns the values of a tensor, without a copy on the CPU."""
    # PyTorch rearranges axes faster than NumPy.
    tensor = tensor.cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        # NumPy can read the bits, but not the dtype.
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _same(one: Tensors, other: Tensors) -> bool:
    return all(
        tolerance.compare(_array(tensor), _array(other[name])) == "identical"
        for name, tensor in one.items()
    )
