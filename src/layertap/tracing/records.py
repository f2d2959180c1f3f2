"""Records of a traced forward pass, and how several traces of one model are merged."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from layertap.core import address


@dataclass(frozen=True)
class TracedValue:
    """One tensor of a trace."""

    shape: tuple[int | None, ...]  # None for an unknown size
    dtype: str
    made_by: str  # the path of the operation that returned it last
    token: Hashable  # equal for two values that are the same tensor
    # Its first axis has so many times the rows: 0 if it is not a multiple of them, None
    # if only a batch shows it.
    times: int | None
    fault: str = ""  # the reason why it can't be captured
    # Of a value whose rows are unfolded: see `planning.folded_rows`.
    outer: int | None = None
    data_format: str = ""  # that of its maker, or of Keras; empty if that is unclear

    @property
    def by_row(self) -> bool | None:
        """Whether it has one row for each row of the inputs; None if unknown."""
        if self.times is None:
            return None
        return self.times == 1 or self.outer is not None


@dataclass(frozen=True)
class TracedJoin:
    """One join of a trace. A survey adds its values as it begins and ends."""

    path: str
    kind: str
    axis: int | None  # None for kinds without an axis
    inputs: tuple[TracedValue, ...] = ()
    output: TracedValue = TracedValue((), "", "", None, times=0)
    # Whether an operation of the model is this join, which then has its path.
    whole: bool = False
    # The library function or Keras layer that joins on its own account. Empty if user
    # code requested the join.
    origin: str = ""

    def map(self, function: Callable[[TracedValue], TracedValue]) -> "TracedJoin":
        """Returns the join with a function of each value."""
        inputs = tuple(map(function, self.inputs))
        return replace(self, inputs=inputs, output=function(self.output))


@dataclass(frozen=True)
class Trace:
    """The joins and operations of one forward pass, in the order of execution."""

    joins: Mapping[str, TracedJoin] = field(default_factory=dict)  # by path
    # By path, and those of the model under their names.
    outputs: Mapping[str, tuple[TracedValue, ...]] = field(default_factory=dict)
    # The names of the model's inputs, without those that are also names of layers.
    inputs: Sequence[str] = ()
    # The path and the reason of an early end; None after a complete pass.
    stopped: tuple[str, str] | None = None
    # The paths of the operations that draw random numbers.
    random: tuple[str, ...] = ()
    # Whether it is that of any number of rows, and not of one that the model needs.
    any_rows: bool = True

    @property
    def values(self) -> dict[str, TracedValue]:
        """The branches of all joins and the outputs of all operations, by address."""
        values = {
            address.branch(path, number): value
            for path, join in self.joins.items()
            for number, value in enumerate(join.inputs)
        }
        for path in self.outputs:
            values |= self.outputs_of(path)
        return values

    def outputs_of(self, path: str) -> dict[str, TracedValue]:
        """Returns the outputs of an operation, by address."""
        values = self.outputs[path]
        return {address.output(path, n, len(values)): v for n, v in enumerate(values)}

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        """The shapes of all values, in order."""
        return [value.shape for value in self.values.values()]

    def map(self, function: Callable[[TracedValue], TracedValue]) -> "Trace":
        """Returns the trace with a function of each value."""
        joins = {path: join.map(function) for path, join in self.joins.items()}
        outputs = {p: tuple(map(function, of)) for p, of in self.outputs.items()}
        return replace(self, joins=joins, outputs=outputs)


def merge(traces: Sequence[Trace]) -> Trace:
    """Merges traces of one model: a size on which they disagree is unknown."""
    return functools.reduce(_merge_two, traces)


def _merge_two(one: Trace, other: Trace) -> Trace:
    joins = {
        path: replace(
            join,
            inputs=_agree_all(join.inputs, other.joins[path].inputs),
            output=_agree_all([join.output], [other.joins[path].output])[0],
        )
        for path, join in one.joins.items()
        if path in other.joins
    }
    outputs = {
        path: _agree_all(values, other.outputs[path])
        for path, values in one.outputs.items()
        if path in other.outputs
    }
    stopped = one.stopped or other.stopped
    any_rows = one.any_rows and other.any_rows
    return Trace(joins, outputs, one.inputs, stopped, one.random, any_rows)


def _agree_all(
    values: Sequence[TracedValue], others: Sequence[TracedValue]
) -> tuple[TracedValue, ...]:
    if list(map(_form, values)) != list(map(_form, others)):
        longer = max(values, others, key=len)
        return tuple(replace(value, fault=value.fault or _VARIES) for value in longer)
    return tuple(_agree(*pair) for pair in zip(values, others, strict=True))


def _form(value: TracedValue) -> tuple[int, str]:
    return len(value.shape), value.dtype


def _agree(one: TracedValue, other: TracedValue) -> TracedValue:
    sizes = zip(one.shape, other.shape, strict=True)
    shape = tuple(size if size == same else None for size, same in sizes)
    numbers = {value.times for value in (one, other)} - {None}
    times = None if not numbers else numbers.pop() if len(numbers) == 1 else 0
    return replace(one, shape=shape, times=times)


_VARIES = (
    "the number, rank or dtype of the tensors here depends on the rows or the sizes of "
    "the inputs"
)
