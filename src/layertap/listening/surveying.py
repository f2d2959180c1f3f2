"""What a model joins, found with symbolic tensors: no data is run."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from layertap.errors import LayertapError, ListeningError
from layertap.listening.backends import backend_module
from layertap.listening.calls import hearing, points
from layertap.listening.heard import Heard, merge
from layertap.listening.models import InputSpec, forward
from layertap.listening.survey import Survey

# Sizes that stand in for unknown ones where Keras' own, which are primes, did not do:
# they can be halved five times, as networks that go down and up again need it.
STAND_INS = (96, 160)


def survey(
    model: keras.Model, specs: Any, kinds: Iterable[str], rows: int | None = None
) -> Heard:
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
        heard = _run(model, specs, kinds, None)
        if len(model.variables) > known:
            # That pass has built layers, and heard how: the next hears the model alone.
            heard = _run(model, specs, kinds, None)
    except LayertapError:
        raise
    except Exception as first:
        return _with_rows(model, specs, kinds, rows, first)
    if keras.backend.backend() != "tensorflow":
        return heard
    # There, an unknown number of rows looks like any other unknown size.
    try:
        return merge([heard, _run(model, specs, kinds, STAND_INS[0])])
    except LayertapError:
        raise
    except Exception:
        return heard


def _with_rows(
    model: keras.Model,
    specs: Any,
    kinds: Iterable[str],
    rows: int | None,
    first: Exception,
) -> Heard:
    """Hears a model that does not take an unknown number of rows."""
    found = []
    for number in STAND_INS if rows is None else (rows, rows + 1):
        try:
            found.append(_run(model, specs, kinds, number))
        except LayertapError:
            raise
        except Exception as error:
            # With one more row than is known it need not run.
            if found and rows is not None:
                break
            raise ListeningError(
                f"{model.name!r} ({type(model).__name__}) can't be run with symbolic "
                f"tensors of {_shapes(specs)}: {type(error).__name__}: {error}\n"
                "If these are not the shapes it takes, pass data as `like=`."
            ) from first
    return merge(found)


def _run(
    model: keras.Model, specs: Any, kinds: Iterable[str], size: int | None
) -> Heard:
    surveyor = _Surveyor(model, specs, kinds)
    surveyor.compute_output_spec(
        keras.tree.map_structure(
            lambda spec: keras.KerasTensor(
                [size if n is None else n for n in spec.shape], dtype=spec.dtype
            ),
            specs,
        )
    )
    return merge(surveyor.runs)


class _Surveyor(keras.Operation):
    """A call of the model that the backend may run with symbolic tensors."""

    def __init__(self, model: keras.Model, specs: Any, kinds: Iterable[str]) -> None:
        super().__init__(name="layertap_survey")
        self.model = model
        self.kinds = kinds
        self.input_names = [spec.name for spec in keras.tree.flatten(specs)]
        self.runs: list[Heard] = []

    def call(self, inputs: Any) -> Any:
        flat = keras.tree.flatten(inputs)
        backend = backend_module()
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

        with hearing(survey):
            if survey.kinds:
                backend.natively(survey, run, inputs)
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
    told = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    return (told[1] if told else str(error)).strip().splitlines()[0].split(". ")[0]


def _shapes(specs: Any) -> str:
    flat: Sequence[InputSpec] = keras.tree.flatten(specs)
    return ", ".join(f"{spec.name} {spec.shape} {spec.dtype}" for spec in flat)
