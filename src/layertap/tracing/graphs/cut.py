"""A model that is cut in two before one or more joins."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras

from layertap.core import address
from layertap.core.plan import Join, Refused
from layertap.errors import ModelError, OptionError
from layertap.tracing.graphs.build import (
    OperationCall,
    functional_model,
    map_tensors,
    new_tensor,
    tensors_in,
)
from layertap.tracing.graphs.flatten import FlatModel, flatten
from layertap.tracing.join_kinds import IN_ORDER
from layertap.tracing.keras_internals import masking, private


@dataclass(frozen=True)
class Cut:
    """A model that is cut before joins, with the values that cross the cut."""

    # The branches of the joins, by address.
    branches: Mapping[str, Any]
    _model: FlatModel
    # The addresses of the branches of each join, by the id of its call.
    _joins: Mapping[int, Sequence[str]]
    _after: list[OperationCall]
    # The dtypes in which the joins receive their branches, by address.
    _dtypes: Mapping[str, str]

    @cached_property
    def skips(self) -> dict[str, Any]:
        """Other values that are needed after the cut, by address."""
        available = {id(tensor) for call in self._after for tensor in call.outputs}
        available |= {
            id(tensor)
            for name, tensor in self.branches.items()
            if tensor.dtype == self._dtypes[name]
        }
        arguments = [call.args for call in self._after if id(call) not in self._joins]
        arguments += [call.kwargs for call in self._after]
        addresses = _addresses(self._model)
        return {
            addresses[id(tensor)]: tensor
            for tensor in tensors_in((arguments, self._model.outputs))
            if id(tensor) not in available
        }

    @property
    def values(self) -> dict[str, Any]:
        """All values that cross the cut, by address."""
        return {**self.branches, **self.skips}

    def stem(self, name: str, only: str | None = None) -> keras.Model:
        """Makes the model before the cut, which returns values by address.

        It returns all values, or the one with the address `only`, without a dictionary.
        """
        values = self.values
        wanted = sorted(values) if only is None else [only]
        calls = _needed(self._model.calls, [values[name] for name in wanted])
        outputs = {}
        for value in wanted:
            tensor, dtype = values[value], self._dtypes.get(value)
            if dtype is not None and tensor.dtype != dtype:
                # Of a new tensor, so that the layer of this one gets no node.
                cast = keras.ops.cast(new_tensor(tensor), dtype)
                maker = private(cast, "_keras_history").operation
                calls.append(OperationCall(maker, "", (tensor,), {}, [cast]))
                tensor = cast
            outputs[value] = tensor
        returned = outputs if only is None else outputs[only]
        return functional_model(self._model.inputs, calls, returned, name)

    def head(self, name: str) -> keras.Model:
        """Makes the model after the cut, which accepts all values by address."""
        inputs = {
            value: keras.KerasTensor(
                tensor.shape, self._dtypes.get(value, tensor.dtype), name=value
            )
            for value, tensor in sorted(self.values.items())
        }
        crossing = {
            id(tensor): inputs[value]
            for value, tensor in reversed(self.values.items())
            if inputs[value].dtype == tensor.dtype
        }
        calls = []
        for call in self._after:
            args, kwargs = call.map_inputs(crossing)
            if id(call) in self._joins:
                branches = [inputs[value] for value in self._joins[id(call)]]
                args = _replace_in_order(call.args, branches)
            calls.append(replace(call, args=args, kwargs=kwargs))
        outputs = map_tensors(crossing, self._model.outputs)
        head = functional_model(inputs, calls, outputs, name)
        if self._model.output_names is not None:
            # Losses and metrics may be passed by these names.
            head.output_names = list(self._model.output_names)
        return head


def _replace_in_order(structure: Any, tensors: Iterable[Any]) -> Any:
    """Returns a structure with its tensors replaced by others, in order."""
    others = iter(tensors)
    return keras.tree.map_structure(
        lambda leaf: next(others) if isinstance(leaf, keras.KerasTensor) else leaf,
        structure,
    )


def cut_before(
    model: keras.Model, specs: Any, joins: Sequence[Join], refused: Iterable[Refused]
) -> Cut:
    """Cuts a model before joins of a plan. None of their branches may be refused."""
    for join in joins:
        if not join.whole:
            reasons = "; ".join(f"{r.address}: {r.reason}" for r in refused)
            raise ModelError(
                f"{join.path!r} has branches that can't be captured. {reasons}"
            )
    try:
        return cut(model, specs, joins)
    except ModelError as error:
        paths = ", ".join(repr(join.path) for join in joins)
        raise ModelError(
            f"{model.name!r} can't be cut before {paths}. "
            f"{error} Instead, save the branches (layertap.save needs no graph), and "
            "write the part after the join as a model of its own."
        ) from error


def cut(model: keras.Model, specs: Any, joins: Sequence[Join]) -> Cut:
    """Cuts a model before joins, without changing it.

    The calls that depend on the joins are after the cut. All others are before it, but
    for operations inside a `call`, which have no address: they are where their values
    are needed.
    """
    kinds = {join.kind for join in joins}
    if "attention" in kinds:
        raise ModelError("A model can't be cut before an attention.")
    flat = flatten(model, specs, [join.path for join in joins], kinds)
    by_path = {call.path: call for call in flat.calls if call.path}
    cut_joins: dict[int, Sequence[str]] = {}
    branches: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    for join in joins:
        call = by_path.get(join.path)
        tensors = [] if call is None else tensors_in(call.args)
        in_order = call is not None and isinstance(call.operation, IN_ORDER)
        if call is None or not in_order or len(tensors) != len(join.branches):
            raise ModelError(
                f"{join.path} is not a node with these branches in a graph of "
                f"{model.name!r}."
            )
        cut_joins[id(call)] = [branch.address for branch in join.branches]
        branches |= zip(cut_joins[id(call)], tensors, strict=True)
        dtypes |= {branch.address: branch.dtype for branch in join.branches}
    after = _after(flat, set(cut_joins))
    for join in joins:
        if by_path[join.path] not in after:
            raise OptionError(
                f"{join.path!r} leads to the other joins only, so nothing after them "
                "needs its branches. Leave it out, or cut before it alone."
            )
    for call in after:
        if call.fixed_training:
            raise ModelError(
                f"{call.path} always receives training={call.kwargs['training']}. In a "
                "head it would receive the same `training` as the head."
            )
    made = Cut(branches, flat, cut_joins, after, dtypes)
    for name, tensor in made.values.items():
        if masking.get_keras_mask(tensor) is not None:
            raise ModelError(
                f"{name} has a mask, which would be lost between the parts of "
                f"{model.name!r}."
            )
    return made


def _after(flat: FlatModel, joins: set[int]) -> list[OperationCall]:
    """Returns the calls that the outputs need, and that depend on joins."""
    dependent: set[int] = set()
    for call in flat.calls:
        if id(call) in joins or any(id(tensor) in dependent for tensor in call.inputs):
            dependent |= set(map(id, call.outputs))

    def is_after(call: OperationCall) -> bool:
        nameless = not call.path and call.inputs
        return bool(nameless) or any(id(tensor) in dependent for tensor in call.outputs)

    return _needed(list(filter(is_after, flat.calls)), tensors_in(flat.outputs), joins)


def _addresses(flat: FlatModel) -> dict[int, str]:
    """Returns the addresses of tensors, by their ids."""
    inputs = zip(flat.names, keras.tree.flatten(flat.inputs), strict=True)
    addresses: dict[int, str] = {
        id(tensor): address.output(address.component(name)) for name, tensor in inputs
    }
    for call in flat.calls:
        if call.path:
            count = len(call.outputs)
            for index, tensor in enumerate(call.outputs):
                name = address.output(call.path, index, count)
                addresses.setdefault(id(tensor), name)
    return addresses


def _needed(
    calls: list[OperationCall], tensors: list[Any], ends: Container[int] = ()
) -> list[OperationCall]:
    """Returns those calls that tensors need, back to the calls with some ids."""
    needed = set(map(id, tensors))
    backwards = []
    for call in reversed(calls):
        if needed & set(map(id, call.outputs)):
            backwards.append(call)
            if id(call) not in ends:
                needed |= set(map(id, call.inputs))
    return backwards[::-1]
