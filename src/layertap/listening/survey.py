"""What a model joins, found with symbolic tensors: no data is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.errors import LayertapError, ListeningError
from layertap.listening.backends import backend_module
from layertap.listening.calls import hearing, points
from layertap.listening.models import InputSpec, forward
from layertap.listening.passes import JoinHeard, Survey, ValueHeard

# Sizes that stand in for unknown ones where Keras' own, which are primes, did not do:
# they can be halved five times, as networks that go down and up again need it.
STAND_INS = (96, 160)


@dataclass(frozen=True)
class Heard:
    """What one forward pass of a model joins and returns, in the order of hearing.

    Attributes:
        joins: The joins by path.
        outputs: The outputs of every operation by path, flat.
    """

    joins: Mapping[str, JoinHeard]
    outputs: Mapping[str, tuple[ValueHeard, ...]]


class _Surveyor(keras.Operation):
    """A call of the model that the backend may run with symbolic tensors."""

    def __init__(self, model: keras.Model, specs: Any) -> None:
        super().__init__(name="layertap_survey")
        self.model = model
        self.input_names = [spec.name for spec in keras.tree.flatten(specs)]
        self.runs: list[Heard] = []

    def call(self, inputs: Any) -> Any:
        flat = keras.tree.flatten(inputs)
        survey = Survey(
            self.input_names, self.model.name, backend_module().belongs(flat)
        )
        with hearing(survey):
            forward(self.model, inputs)
        self.runs.append(Heard(survey.joins, survey.outputs))
        return flat[0]


def survey(model: keras.Model, specs: Any, rows: int | None = None) -> Heard:
    """Runs a model's forward pass with symbolic tensors, and hears it.

    Args:
        model: The model. If it was never called, this builds it.
        specs: The structure of `InputSpec` that it takes.
        rows: A number of rows that the model is known to take, should it not take
            an unknown one.

    Returns:
        What was heard. Sizes that are not known are None.

    Raises:
        ListeningError: If the model can't be run with symbolic tensors, or this
            release of Keras has moved what is listened to.
    """
    points()  # told before Keras puts words of its own around the error
    known = len(model.variables)
    try:
        heard = _merge(_run(model, specs, None))
        if len(model.variables) == known:
            return heard
        # That pass has built layers, and heard how: the next hears the model alone.
        return _merge(_run(model, specs, None))
    except LayertapError:
        raise
    except Exception as first:
        try:
            sizes = STAND_INS if rows is None else (rows,)
            runs = [_rows_unknown(_run(model, specs, n)[-1], n) for n in sizes]
            return _merge(runs)
        except LayertapError:
            raise
        except Exception as error:
            raise ListeningError(
                f"{model.name!r} ({type(model).__name__}) can't be run with symbolic "
                f"tensors of {_shapes(specs)}: {type(error).__name__}: {error}\n"
                "If these are not the shapes it takes, pass data as `like=`."
            ) from first


def _run(model: keras.Model, specs: Any, size: int | None) -> list[Heard]:
    surveyor = _Surveyor(model, specs)
    surveyor.compute_output_spec(
        keras.tree.map_structure(
            lambda spec: keras.KerasTensor(
                [size if n is None else n for n in spec.shape], dtype=spec.dtype
            ),
            specs,
        )
    )
    return surveyor.runs


def _shapes(specs: Any) -> str:
    flat: Sequence[InputSpec] = keras.tree.flatten(specs)
    return ", ".join(f"{spec.name} {spec.shape} {spec.dtype}" for spec in flat)


def _rows_unknown(heard: Heard, rows: int) -> Heard:
    """Gives up the number of rows that only stood in for an unknown one."""

    def forget(value: ValueHeard) -> ValueHeard:
        if value.shape[:1] != (rows,):
            return value
        return replace(value, shape=(None, *value.shape[1:]))

    joins = {
        path: replace(
            join, inputs=tuple(map(forget, join.inputs)), output=forget(join.output)
        )
        for path, join in heard.joins.items()
    }
    outputs = {path: tuple(map(forget, out)) for path, out in heard.outputs.items()}
    return Heard(joins, outputs)


def _merge(runs: Sequence[Heard]) -> Heard:
    """Merges runs of one model: a size on which they disagree is not known."""
    first = runs[0]
    for other in runs[1:]:
        joins = {
            path: replace(
                join,
                inputs=_agree(join.inputs, other.joins[path].inputs),
                output=_agree((join.output,), (other.joins[path].output,))[0],
            )
            for path, join in first.joins.items()
            if path in other.joins
        }
        outputs = {
            path: _agree(values, other.outputs[path])
            for path, values in first.outputs.items()
            if path in other.outputs
        }
        first = Heard(joins, outputs)
    return first


def _agree(
    one: Sequence[ValueHeard], other: Sequence[ValueHeard]
) -> tuple[ValueHeard, ...]:
    return tuple(
        replace(
            a,
            shape=tuple(
                m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)
            ),
        )
        for a, b in zip(one, other, strict=True)
    )
