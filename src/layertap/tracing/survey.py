"""Traces a model with symbolic tensors: no data is run."""

import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from layertap.errors import LayertapError, ListeningError
from layertap.tracing.backends import current_backend
from layertap.tracing.forward_pass import Wanted, causes, tensors_of
from layertap.tracing.graphs.subgraph import graph_tensors
from layertap.tracing.hooks import points, recording
from layertap.tracing.keras_internals import backend
from layertap.tracing.model_structure import fixed_rows, forward, functional, layers_of
from layertap.tracing.records import Trace, merge
from layertap.tracing.survey_pass import SurveyPass

# Numbers of rows for models that fail without one: few, in case they are really
# computed.
ROWS = (2, 3)
# Pairs of other sizes, for models that fail with those of Keras, which are primes. The
# first can be halved five times, for networks that go down and up again. The others
# are for models with an upper limit, such as a table of positions.
STAND_INS = ((96, 160), (32, 64), (8, 16), (2, 4))


def survey(
    model: keras.Model, specs: Any, kinds: Iterable[str], rows: int | None = None
) -> Trace:
    """Runs a model's forward pass with symbolic tensors, and returns its trace.

    It builds a model that was never called. `rows` is a number of rows that the model
    accepts, for models that need a known one.
    """
    points()  # Raises here: Keras would wrap its error.
    trace = partial(_trace, model, specs, frozenset(kinds))
    known = len(model.variables)
    fixed = fixed_rows(specs)
    opened = any(_open_inputs(specs))
    # Rows are a symbol on JAX, which no other size is.
    if fixed is None and not opened and keras.backend.backend() != "jax":
        traced = _with_graph(model, trace)
        if traced is not None:
            return traced
    try:
        traced = trace(fixed)
        if len(model.variables) > known:
            # That pass traced the building of layers too.
            traced = trace(fixed)
    except LayertapError:
        raise
    except Exception as first:
        return _with_rows(trace, model, specs, rows, first)
    if fixed is None and (opened or keras.backend.backend() == "tensorflow"):
        return _with_known_rows(traced, trace)
    return traced


def _open_inputs(specs: Any) -> list[str]:
    """Returns the names of the inputs that have open sizes besides their rows."""
    return [s.name for s in keras.tree.flatten(specs) if None in s.shape[1:]]


def _with_graph(model: keras.Model, trace: Callable[..., Trace]) -> Trace | None:
    """Traces a model once, if its own graph shows which sizes are rows; or None.

    The graph has None where a size is unknown: with a known number of rows, that is
    the rows, if the size is their number. So it is in layers of Keras itself, where
    nobody declares a shape.
    """
    graph = functional(model)
    if graph is None or not all(map(_declares_nothing, graph.operations)):
        return None
    try:
        traced = trace(ROWS[0], may_skip=True)
    except LayertapError:
        raise
    except Exception:
        return None
    values = {n: v for n, v in traced.values.items() if v.made_by not in traced.inputs}
    kinds = {join.kind for join in traced.joins.values()}
    known = None if traced.stopped else graph_tensors(model, Wanted(values, kinds))
    agrees = known is not None and all(
        value.times == 1 and tuple(known[name].shape) == value.shape
        for name, value in values.items()
    )
    return traced if agrees else None


def _declares_nothing(operation: keras.Operation) -> bool:
    """Whether an operation is a layer of Keras, with no function or layer inside."""
    return (
        isinstance(operation, keras.layers.Layer)
        and type(operation).__module__.startswith("keras.src.layers.")
        and not isinstance(operation, keras.layers.Lambda)
        and not layers_of(operation)
    )


def _with_known_rows(traced: Trace, trace: Callable[..., Trace]) -> Trace:
    """Distinguishes rows from other sizes that the backend does not know.

    With a known number of rows, TensorFlow knows more sizes, and the others have
    another stand-in than the rows. Sizes that stay the same with another number of rows
    do not depend on it.
    """
    try:
        rows, more_rows = ROWS
        known = trace(rows)
        if known.shapes == traced.shapes:
            return merge([traced, known])
        known = merge([known, trace(more_rows)])
    except LayertapError:
        raise
    except Exception:
        return traced
    same = known.joins.keys() == traced.joins.keys()
    return known if same else merge([traced, known])


def _with_rows(
    trace: Callable[..., Trace],
    model: keras.Model,
    specs: Any,
    rows: int | None,
    first: Exception,
) -> Trace:
    """Traces a model that does not accept unknown rows, or Keras' stand-in sizes."""
    opened = _open_inputs(specs)
    fixed = fixed_rows(specs)
    numbers = ROWS if rows is None else (rows, rows + 1)
    if fixed is not None:
        numbers = (fixed, fixed)
    errors = []
    for sizes in STAND_INS if opened else STAND_INS[:1]:
        traces: list[Trace] = []
        try:
            for number, size in zip(numbers, sizes, strict=True):
                traces.append(trace(number, size))
        except LayertapError:
            raise
        except Exception as error:
            errors.append(error)
        # The model may not accept one row more than the known number.
        if len(traces) == 2 or (traces and rows is not None and not opened):
            return replace(merge(traces), any_rows=len(traces) == 2)
    leaves = keras.tree.flatten(specs)
    shapes = [f"{s.name} {s.shape} {s.dtype}" for s in leaves]
    # A subclassed model of several inputs may have got the first member of a tuple.
    lone = len(leaves) == 1 and functional(model) is None
    tried = ", ".join(str(size) for size, _ in STAND_INS)
    raise ListeningError(
        f"{model.name!r} ({type(model).__name__}) with {', '.join(shapes)} can't be "
        "run with symbolic tensors: "
        f"{type(errors[0]).__name__}: {_message(errors[0])}\n"
        + (f"The open sizes of {', '.join(opened)} were {tried}. " if opened else "")
        + "If the model expects other shapes, pass data that have them"
        # Without data, or with inputs of open sizes.
        + (": plan(model, like=x)." if rows is None else ".")
        + (" A tuple is (x, y): pass several inputs as a list." if lone else "")
    ) from first


def _trace(
    model: keras.Model,
    specs: Any,
    kinds: Iterable[str],
    rows: int | None = None,
    size: int | None = None,
    *,
    may_skip: bool = False,
) -> Trace:
    traces: list[Trace] = []

    def call(inputs: Any) -> Any:
        flat = tensors_of(inputs)
        # PyTorch's tensors have values if Keras could not run the model without any.
        if rows is None and not getattr(flat[0], "is_meta", True):
            raise RuntimeError("Keras replaced an unknown number of rows by a number")
        survey = SurveyPass(kinds, specs, model.name, may_skip=may_skip)
        traces.append(_run(survey, model, inputs))
        return flat[0]

    backend.compute_output_spec(
        call,
        keras.tree.map_structure(
            lambda spec: (
                None
                if spec.absent
                else keras.KerasTensor(
                    [rows, *(size if n is None else n for n in spec.shape[1:])],
                    dtype=spec.dtype,
                )
            ),
            specs,
        ),
    )
    return merge(traces)


def _run(survey: SurveyPass, model: keras.Model, inputs: Any) -> Trace:
    """Runs a pass of the model, to its end or to where Python decides by values."""
    used = current_backend()
    survey.version = used.version
    survey.belongs = used.belongs(tensors_of(inputs))
    survey.native_fault = used.native_fault(model)

    def run(inputs: Any) -> None:
        try:
            forward(model, inputs)
        except Exception as error:
            reason = _undecidable(error)
            if reason is None or not (survey.joins or survey.outputs):
                raise
            survey.stopped = survey.failed[1] or model.name, reason

    meta = getattr(tensors_of(inputs)[0], "is_meta", False)
    with recording(survey), used.symbolic_variables(model) if meta else nullcontext():
        if survey.kinds:
            used.run_with_native_joins(survey, run, inputs)
        else:
            run(inputs)
    return survey.result()


def _undecidable(error: BaseException) -> str | None:
    """Returns the message of an error if Python had to decide by values, or None.

    Keras raises new errors for those that pass through it.
    """
    for cause in filter(current_backend().undecidable, causes(error)):
        return _message(cause).splitlines()[0].split(". ")[0]
    return None


def _message(error: BaseException) -> str:
    """Returns an error's message without the text that Keras adds to it."""
    message = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    return (message[1] if message else str(error)).strip()
