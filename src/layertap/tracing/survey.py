"""Traces a model with symbolic tensors: no data is run."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras

from layertap.errors import LayertapError, ListeningError
from layertap.tracing.backends import current_backend
from layertap.tracing.forward_pass import causes
from layertap.tracing.hooks import points, recording
from layertap.tracing.keras_internals import backend
from layertap.tracing.model_structure import fixed_rows, forward
from layertap.tracing.records import Trace, merge
from layertap.tracing.survey_pass import SurveyPass

# Rows and other sizes for models that fail with Keras' own stand-ins, which are primes.
# These sizes can be halved five times, for networks that go down and up again. Rows are
# few, in case they are really computed.
STAND_INS = ((2, 96), (3, 160))


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
    try:
        traced = trace(fixed)
        if len(model.variables) > known:
            # That pass traced the building of layers too.
            traced = trace(fixed)
    except LayertapError:
        raise
    except Exception as first:
        shapes = (f"{s.name} {s.shape} {s.dtype}" for s in keras.tree.flatten(specs))
        subject = f"{model.name!r} ({type(model).__name__}) with {', '.join(shapes)}"
        return _with_rows(trace, rows, fixed, subject, first)
    if fixed is not None or keras.backend.backend() != "tensorflow":
        return traced
    return _with_known_rows(traced, trace)


def _with_known_rows(traced: Trace, trace: Callable[..., Trace]) -> Trace:
    """Distinguishes rows from other sizes that TensorFlow does not know.

    With a known number of rows, TensorFlow knows more sizes. Those that stay the same
    with another number of rows do not depend on it.
    """
    try:
        (rows, _), (more_rows, _) = STAND_INS
        known = trace(rows)
        if known.sizes == traced.sizes:
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
    rows: int | None,
    fixed: int | None,
    subject: str,
    first: Exception,
) -> Trace:
    """Traces a model that does not accept an unknown number of rows."""
    traces = []
    for number, (few, size) in enumerate(STAND_INS):
        try:
            traces.append(
                trace(fixed or (few if rows is None else rows + number), size)
            )
        except LayertapError:
            raise
        except Exception as error:
            # The model may not accept one row more than the known number.
            if traces and rows is not None:
                break
            raise ListeningError(
                f"{subject} can't be run with symbolic tensors: "
                f"{type(error).__name__}: {_message(error)}\nIf the model expects "
                "other shapes, pass data as `like=`."
            ) from first
    return merge(traces)


def _trace(
    model: keras.Model,
    specs: Any,
    kinds: Iterable[str],
    rows: int | None = None,
    size: int | None = None,
) -> Trace:
    traces: list[Trace] = []

    def call(inputs: Any) -> Any:
        flat = keras.tree.flatten(inputs)
        # PyTorch's tensors have values if Keras could not run the model without any.
        if rows is None and not getattr(flat[0], "is_meta", True):
            raise RuntimeError("Keras replaced an unknown number of rows by a number")
        traces.append(_run(SurveyPass(kinds, specs, model.name), model, inputs))
        return flat[0]

    backend.compute_output_spec(
        call,
        keras.tree.map_structure(
            lambda spec: keras.KerasTensor(
                [rows, *(size if n is None else n for n in spec.shape[1:])],
                dtype=spec.dtype,
            ),
            specs,
        ),
    )
    return merge(traces)


def _run(survey: SurveyPass, model: keras.Model, inputs: Any) -> Trace:
    """Runs a pass of the model, to its end or to where Python decides by values."""
    used = current_backend()
    survey.version = used.version
    survey.belongs = used.belongs(keras.tree.flatten(inputs))

    def run(inputs: Any) -> None:
        try:
            forward(model, inputs)
        except Exception as error:
            reason = _undecidable(error)
            if reason is None or not (survey.joins or survey.outputs):
                raise
            survey.stopped = survey.failed[1] or model.name, reason

    with recording(survey):
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
