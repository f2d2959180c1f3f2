"""What a survey of a model heard: records, and how several runs become one."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class TracedValue:
    """One tensor as a survey heard it.

    Attributes:
        shape: Its shape, with None where the size is not known.
        dtype: Its Keras dtype.
        made_by: The path of the operation that returned it last.
        token: Equal for two values if they are the same tensor.
        by_row: Whether it has one row for each row of the model's inputs.
        fault: Why it can't be had; empty if it can.
    """

    shape: tuple[int | None, ...]
    dtype: str
    made_by: str
    token: Hashable
    by_row: bool
    fault: str = ""


@dataclass(frozen=True)
class TracedJoin:
    """One join as a survey heard it.

    Attributes:
        path: Its path.
        kind: Its kind.
        axis: The axis along which it joins, never negative; None for kinds that have
            none.
        inputs: What it joins.
        output: What it returns.
        whole: Whether an operation of the model is that join, and lent it its path.
        origin: Whose own business it is: a function of a library, or a layer of
            Keras; empty if the user's code asked for it.
    """

    path: str
    kind: str
    axis: int | None
    inputs: tuple[TracedValue, ...]
    output: TracedValue
    whole: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Trace:
    """What one forward pass of a model joins and returns, in the order of hearing.

    Attributes:
        joins: The joins by path.
        outputs: The outputs of every operation by path, flat.
        inputs: The model's inputs by name, those that no layer shares it with.
        stopped: Where the pass could not go on, and why: a path and a reason; None if
            it came to its end.
    """

    joins: Mapping[str, TracedJoin] = field(default_factory=dict)
    outputs: Mapping[str, tuple[TracedValue, ...]] = field(default_factory=dict)
    inputs: Mapping[str, TracedValue] = field(default_factory=dict)
    stopped: tuple[str, str] | None = None

    @property
    def sizes(self) -> list[tuple[int | None, ...]]:
        """The shapes of all values, one after the other."""
        of_joins = [value for join in self.joins.values() for value in join.inputs]
        of_outputs = [value for values in self.outputs.values() for value in values]
        return [value.shape for value in (*of_joins, *of_outputs)]


def merge(runs: Sequence[Trace]) -> Trace:
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
        inputs = {
            name: _agree((value,), (other.inputs[name],))[0]
            for name, value in first.inputs.items()
        }
        first = Trace(joins, outputs, inputs, first.stopped or other.stopped)
    return first


def _agree(
    one: Sequence[TracedValue], other: Sequence[TracedValue]
) -> tuple[TracedValue, ...]:
    return tuple(
        replace(
            a,
            shape=tuple(
                m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)
            ),
            by_row=a.by_row and b.by_row,
        )
        for a, b in zip(one, other, strict=True)
    )
