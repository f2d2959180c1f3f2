"""What a model joins, found with symbolic tensors: no data is run."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from layertap.errors import LayertapError, ListeningError
from layertap.tracing.backends import backend_module
from layertap.tracing.hooks import points, recording
from layertap.tracing.model_structure import InputSpec, forward
from layertap.tracing.records import Trace, merge
from layertap.tracing.survey_pass import Survey

# Rows and other sizes that stand in for unknown ones where Keras' own, which are primes
# of some size, did not do. Other sizes can be halved five times, as networks that go
# down and up again need it; rows are few, in case that they are really computed.
STAND_INS = ((2, 96), (3, 160))


def survey(
    model: keras.Model, specs: Any, kinds: Iterable[str], rows: int | None = None
) -> Trace:
    """Runs a model's forward pass with symbolic tensors, and hears it.

    Args:
        model: The model. If it was never called, this builds it.
        specs: The structure of `InputSpec` that it takes.
        kinds: The kinds of join to listen to.
        rows: A number of rows that the model is known to take, should it not take
            an unknown one.

    Returns:
        What was heard. Sizes that are not known are None.

    Raises:
        ListeningError: If the model can't be run with symbolic tensors, or this
            release of Keras has moved what is listened to.
    """
    points()  # told before Keras puts words of its own around the error
    kinds = frozenset(kinds)
    known = len(model.variables)
    try:
        heard = _run(model, specs, kinds)
        if len(model.variables) > known:
            # That pass has built layers, and heard how: the next hears the model alone.
            heard = _run(model, specs, kinds)
    except LayertapError:
        raise
    except Exception as first:
        return _with_rows(model, specs, kinds, rows, first)
    if keras.backend.backend() != "tensorflow":
        return heard
    return _told_apart(heard, model, specs, kinds)


def _told_apart(
    heard: Trace, model: keras.Model, specs: Any, kinds: Iterable[str]
) -> Trace:
    """Tells rows from other sizes that TensorFlow does not know.

    With a number of rows it knows which values have as many, and more of the other
    sizes; those that are the same with another number do not depend on it.
    """
    try:
        (few, _), (more, _) = STAND_INS
        one = _run(model, specs, kinds, few)
        if one.sizes == heard.sizes:
            return merge([heard, one])
        both = merge([one, _run(model, specs, kinds, more)])
    except LayertapError:
        raise
    except Exception:
        return heard
    same = both.joins.keys() == heard.joins.keys()
    return both if same else merge([heard, both])


def _with_rows(
    model: keras.Model,
    specs: Any,
    kinds: Iterable[str],
    rows: int | None,
    first: Exception,
) -> Trace:
    """Hears a model that does not take an unknown number of rows."""
    found = []
    for number, (few, size) in enumerate(STAND_INS):
        try:
            given = few if rows is None else rows + number
            found.append(_run(model, specs, kinds, given, size))
        except LayertapError:
            raise
        except Exception as error:
            # With one more row than is known it need not run.
            if found and rows is not None:
                break
            raise ListeningError(
                f"{model.name!r} ({type(model).__name__}) can't be run with symbolic "
                f"tensors of {_shapes(specs)}: {type(error).__name__}: {_told(error)}\n"
                "If these are not the shapes it takes, pass data as `like=`."
            ) from first
    return merge(found)


def _run(
    model: keras.Model,
    specs: Any,
    kinds: Iterable[str],
    rows: int | None = None,
    size: int | None = None,
) -> Trace:
    surveyor = _Surveyor(model, specs, kinds, really=rows is not None)
    surveyor.compute_output_spec(
        keras.tree.map_structure(
            lambda spec: keras.KerasTensor(
                [rows, *(size if n is None else n for n in spec.shape[1:])],
                dtype=spec.dtype,
            ),
            specs,
        )
    )
    return merge(surveyor.runs)


class ComputedError(Exception):
    """Keras tried with real tensors where symbolic ones did not do."""


class _Surveyor(keras.Operation):
    """A call of the model that the backend may run with symbolic tensors."""

    def __init__(
        self, model: keras.Model, specs: Any, kinds: Iterable[str], *, really: bool
    ) -> None:
        super().__init__(name="layertap_survey")
        self.really = really
        self.model = model
        self.kinds = kinds
        self.input_names = [spec.name for spec in keras.tree.flatten(specs)]
        self.runs: list[Trace] = []

    def call(self, inputs: Any) -> Any:
        flat = keras.tree.flatten(inputs)
        backend = backend_module()
        if not (self.really or backend.symbolic(flat[0])):
            raise ComputedError("with as many rows as stand in for an unknown number")
        survey = Survey(self.kinds, self.input_names, self.model.name)
        survey.belongs, survey.version = backend.belongs(flat), backend.version
        stopped = None

        def run(inputs: Any) -> None:
            nonlocal stopped
            try:
                forward(self.model, inputs)
            except Exception as error:
                reason = _undecided(error)
                if reason is None or not (survey.joins_heard or survey.outputs):
                    raise
                stopped = survey.failed[1] or self.model.name, reason

        with recording(survey):
            if survey.kinds:
                backend.run_with_native_joins(survey, run, inputs)
            else:
                run(inputs)
        self.runs.append(survey.heard(stopped))
        return flat[0]


def _undecided(error: BaseException | None) -> str | None:
    """Returns what an error says if Python was to decide by values, or None.

    Keras makes new errors of those that pass through it.
    """
    undecidable = backend_module().undecidable
    while error is not None and not undecidable(error):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    return _told(error).splitlines()[0].split(". ")[0]


def _told(error: BaseException) -> str:
    """Returns what an error says, without what Keras has put around it."""
    told = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    return (told[1] if told else str(error)).strip()


def _shapes(specs: Any) -> str:
    flat: Sequence[InputSpec] = keras.tree.flatten(specs)
    return ", ".join(f"{spec.name} {spec.shape} {spec.dtype}" for spec in flat)
