"""A model cut in two, before some joins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from layertap.core import address
from layertap.errors import ModelError, OptionError
from layertap.tracing.graphs.build import Step, like, part, tensors_in
from layertap.tracing.graphs.flatten import Unrolled, unrolled
from layertap.tracing.graphs.record_pass import mask_of
from layertap.tracing.join_kinds import IN_ORDER
from layertap.tracing.keras_internals import private

# By the path of a join, the dtypes in which it receives its branches, by address.
Branches = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Cut:
    """A model cut before some joins: what is before, and what comes after.

    Attributes:
        branches: The branches of the joins, by address.
        skips: By address, what else is needed after the cut: values that run past the
            joins.
    """

    branches: Mapping[str, Any]
    skips: Mapping[str, Any]
    _model: Unrolled
    _edges: Mapping[tuple[int, int], str]
    _after: list[Step]
    _dtypes: Mapping[str, str]

    def stem(self, name: str, only: Iterable[str] | None = None) -> keras.Model:
        """Makes the model of what is before the cut.

        Args:
            name: Its name.
            only: Addresses of which it returns the values; by default all.

        Returns:
            A model that takes what the whole one takes, and returns values by address,
            or a single one if `only` is a single address.
        """
        tensors = {**self.branches, **self.skips}
        wanted = sorted(tensors if only is None else only)
        steps = _backwards(self._model.steps, [tensors[name] for name in wanted])
        casts: list[Step] = []
        outputs = {}
        for value in wanted:
            tensor, dtype = tensors[value], self._dtypes.get(value)
            if dtype is not None and tensor.dtype != dtype:
                # Of another tensor, so that the layer that made this one gets no node.
                cast = keras.ops.cast(like(tensor), dtype)
                maker = private(cast, "_keras_history").operation
                casts.append(Step(maker, "", (tensor,), {}, [cast]))
                tensor = cast
            outputs[value] = tensor
        found = outputs[wanted[0]] if only is not None and len(wanted) == 1 else outputs
        return part(self._model.inputs, [*steps, *casts], found, name)

    def head(self, name: str) -> keras.Model:
        """Makes the model of what comes after the cut.

        It takes values by address: those of all branches, and what runs past the joins.
        """
        inputs = {}
        tensors = {**self.branches, **self.skips}
        for value in sorted(tensors):
            dtype = self._dtypes.get(value, tensors[value].dtype)
            inputs[value] = keras.KerasTensor(tensors[value].shape, dtype, name=value)
        past = {
            id(tensor): inputs[value]
            for value, tensor in reversed(tensors.items())
            if inputs[value].dtype == tensor.dtype
        }

        def taken(leaf: Any) -> Any:
            return past.get(id(leaf), leaf)

        steps = []
        for step in self._after:
            leaves = keras.tree.flatten(step.args)
            at = 0
            for n, leaf in enumerate(leaves):
                if isinstance(leaf, keras.KerasTensor):
                    edge = self._edges.get((id(step), at))
                    leaves[n] = taken(leaf) if edge is None else inputs[edge]
                    at += 1
            args = keras.tree.pack_sequence_as(step.args, leaves)
            kwargs = keras.tree.map_structure(taken, step.kwargs)
            steps.append(Step(step.operation, step.path, args, kwargs, step.outputs))
        outputs = keras.tree.map_structure(taken, self._model.outputs)
        made = part(inputs, steps, outputs, name)
        if self._model.output_names is not None:
            # Losses and metrics are told by them.
            made.output_names = list(self._model.output_names)
        return made


def cut(model: keras.Model, specs: Any, joins: Branches, kinds: Iterable[str]) -> Cut:
    """Cuts a model before joins.

    What comes after is what follows from the joins. All else is before, but for
    operations inside a `call`, which have no address: what needs them takes them along.

    Args:
        model: The model. It is not changed.
        specs: The structure of `InputSpec` that it takes.
        joins: The joins, with their branches.
        kinds: Their kinds.

    Raises:
        ModelError: If there is no graph of the model with these joins in it.
        OptionError: If a join only leads to others of them, so that nothing after the
            cut takes its branches.
    """
    whole = unrolled(model, specs, joins, kinds)
    by_path = {step.path: step for step in whole.steps if step.path}
    edges: dict[tuple[int, int], str] = {}
    branches: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    if "attention" in kinds:
        raise ModelError("Nothing can be cut before an attention.")
    for path, wanted in joins.items():
        step = by_path.get(path)
        tensors = [] if step is None else tensors_in(step.args)
        names = [address.branch(path, index) for index in range(len(tensors))]
        if (
            step is None
            or not isinstance(step.operation, IN_ORDER)
            or names != list(wanted)
        ):
            raise ModelError(
                f"{path} is no node with these branches in a graph of {model.name!r}."
            )
        edges |= {(id(step), at): name for at, name in enumerate(names)}
        branches |= zip(names, tensors, strict=True)
        dtypes |= wanted
    after = _after(whole, {id(by_path[path]) for path in joins})
    for path in joins:
        if by_path[path] not in after:
            raise OptionError(
                f"{path!r} leads to the other joins only: nothing after them takes its "
                "branches. Leave it out, or cut before it alone."
            )
    for step in after:
        if step.fixed:
            raise ModelError(
                f"{step.path} is always told training={step.kwargs['training']}, "
                "whatever the model is told; in a graph it would be told what the head "
                "is."
            )
    skips = _skips(whole, after, edges, branches, dtypes)
    for name, tensor in {**branches, **skips}.items():
        if mask_of(tensor) is not None:
            raise ModelError(
                f"{name} has a mask, which would be lost between the parts of "
                f"{model.name!r}."
            )
    return Cut(branches, skips, whole, edges, after, dtypes)


def _after(whole: Unrolled, joins: set[int]) -> list[Step]:
    """Returns the calls that the outputs need, and that follow from joins."""
    following: set[int] = set()
    for step in whole.steps:
        if id(step) in joins or any(id(tensor) in following for tensor in step.inputs):
            following |= set(map(id, step.outputs))
    outputs = tensors_in(whole.outputs)
    needed = {id(tensor) for tensor in outputs}
    after = []
    for step in reversed(whole.steps):
        made = set(map(id, step.outputs))
        nameless = not step.path and step.inputs
        if not made & needed or not (made & following or nameless):
            continue
        after.append(step)
        if id(step) not in joins:
            needed |= set(map(id, step.inputs))
    return after[::-1]


def _skips(
    whole: Unrolled,
    after: list[Step],
    edges: Mapping[tuple[int, int], str],
    branches: Mapping[str, Any],
    dtypes: Mapping[str, str],
) -> dict[str, Any]:
    """Returns what is needed after the cut, and is no branch, by address."""
    made = {id(tensor) for step in after for tensor in step.outputs}
    known = {
        id(tensor) for name, tensor in branches.items() if tensor.dtype == dtypes[name]
    }
    wanted = [
        tensor
        for step in after
        for at, tensor in enumerate(tensors_in(step.args))
        if (id(step), at) not in edges
    ]
    wanted += [tensor for step in after for tensor in tensors_in(step.kwargs)]
    wanted += tensors_in(whole.outputs)
    addresses = _addresses(whole)
    return {
        addresses[id(tensor)]: tensor
        for tensor in wanted
        if id(tensor) not in made and id(tensor) not in known
    }


def _addresses(whole: Unrolled) -> dict[int, str]:
    """Returns the addresses of tensors, by their ids."""
    found: dict[int, str] = {
        id(tensor): address.output(address.component(name))
        for name, tensor in zip(
            whole.names, keras.tree.flatten(whole.inputs), strict=True
        )
    }
    for step in whole.steps:
        if step.path:
            count = len(step.outputs)
            for index, tensor in enumerate(step.outputs):
                name = address.output(step.path, index, count)
                found.setdefault(id(tensor), name)
    return found


def _backwards(steps: list[Step], tensors: list[Any]) -> list[Step]:
    """Returns the calls that some tensors need."""
    needed = set(map(id, tensors))
    found = []
    for step in reversed(steps):
        if needed & set(map(id, step.outputs)):
            found.append(step)
            needed |= set(map(id, step.inputs))
    return found[::-1]
