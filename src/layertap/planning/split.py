"""Makes models of parts of a model: of its branches, before and after a join."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from layertap.core.plan import named_branches
from layertap.errors import ModelError, OptionError
from layertap.planning.join_filter import Kind
from layertap.planning.planner import plan, specs_for
from layertap.tracing.collect import collect
from layertap.tracing.forward_pass import Wanted
from layertap.tracing.graphs.build import clone
from layertap.tracing.graphs.cut import cut_before


def split(
    model: keras.Model,
    before: str | Sequence[str] | None = None,
    *,
    like: Any = None,
    joins: Kind | Sequence[Kind] = ("concatenate",),
    copy: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """Cuts a model in two before joins: `head(stem(x))` is `model(x)`, bit for bit.

    `layertap.save(model, data, path, before=before, for_head=True)` saves the inputs of
    the head: a dictionary of the branches by address and of the values of connections
    that run past the joins. Nested models around a join are flattened.

    The parts are functional models, which can be compiled, trained, saved and loaded
    on their own. They share the layers and the weights of the model: training the head
    also trains the model. (Loading a head, Keras warns that names of its inputs differ
    from their addresses, which contain a slash.)

    Args:
        model: A Keras model. It is not changed, and its layers get no new nodes.
        before: Glob, or globs, over paths of joins. Together they are one cut: the
            head accepts the branches of all of them. Optional for a single join.
        like: See `layertap.plan`.
        joins: See `layertap.plan`.
        copy: Whether the head has layers and weights of its own.

    Returns:
        The stem, which accepts the inputs of the model, and the head, which returns
        its outputs.

    Raises:
        ModelError: If the model has no graph that contains the joins: its `call` needs
            values, or uses weights of its own. The message says what works instead.
        OptionError: If a join only leads to other joins of the cut.
        LayertapError: See `layertap.plan`.

    Example:
    ```python
    stem, head = layertap.split(model, before="fusion")
    saved = layertap.save(model, (x, y), "fusion.zarr", before="fusion", for_head=True)
    head.compile("adam", "sparse_categorical_crossentropy")
    head.fit(saved.dataset(batch_size=32, shuffle=True))
    ```
    """
    made = plan(model, like=like, before=before, joins=joins)
    specs, _ = specs_for(model, like)
    cut = cut_before(model, specs, made.joins, made.refused)
    stem = cut.stem(f"{model.name}_stem")
    head = cut.head(f"{model.name}_head")
    return stem, clone(head) if copy else head


def submodels(
    model: keras.Model,
    before: str | None = None,
    *,
    like: Any = None,
    joins: Kind | Sequence[Kind] = ("concatenate",),
) -> dict[str, keras.Model]:
    """Makes one model for each branch of a join, sharing the original's variables.

    It also works for layers that are called twice and for nested models, where
    `keras.Model(model.inputs, layer.output)` does not. To save values, `layertap.save`
    is faster: it runs the model once, not once for each branch.

    Args:
        model: A Keras model. It is not changed, and its layers get no new nodes.
        before: The path of the join. Optional for a single join.
        like: See `layertap.plan`.
        joins: See `layertap.plan`.

    Returns:
        Models that accept the inputs of `model`, by the operation that made the
        branch, in the order of the branches. If the model has a graph (see `split`),
        they are functional and can be saved. Otherwise they run the original, and
        can't be saved.

    Raises:
        OptionError: If `before` does not name one join.
        ModelError: If a branch can't be captured.

    Example:
    ```python
    models = layertap.submodels(model, before="fusion")
    models["dense_1"].predict(x)
    ```
    """
    made = plan(model, like=like, before=before, joins=joins)
    if len(made.joins) != 1:
        paths = ", ".join(repr(join.path) for join in made.joins)
        raise OptionError(
            f"`before` does not name one join of {model.name!r}. Received {before!r}, "
            f"which matches {paths}."
        )
    join = made.joins[0]
    if made.folded:
        raise ModelError(
            f"{join.path!r} has branches whose rows are folded into one axis with "
            "others, which no model returns row by row. Use layertap.save instead."
        )
    names = list(named_branches(made, join.path))
    specs, _ = specs_for(model, like)
    try:
        cut = cut_before(model, specs, [join], made.refused)
    except ModelError:
        if not join.whole:
            raise
        return {
            made_by: BranchModel(model, branch, join.kind) for made_by, branch in names
        }
    return {made_by: cut.stem(_name(name), name) for made_by, name in names}


def _name(branch: str) -> str:
    # TensorFlow uses the name of a model as a scope, which allows few characters.
    return "before_" + re.sub(r"\W", "_", branch, flags=re.ASCII)


class BranchModel(keras.Model):
    """A model of one branch that runs the original until it has the branch."""

    def __init__(self, model: keras.Model, branch: str, kind: str) -> None:
        super().__init__(name=_name(branch))
        self.original = model
        self.branch = branch
        self.wanted = Wanted([branch], {kind})
        # All its variables are the original's.
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns the value of the branch."""
        return collect(self.original, inputs, self.wanted)[self.branch]

    def get_config(self) -> dict[str, Any]:
        """Raises a ModelError: this model has no graph."""
        raise ModelError(
            f"The model of {self.branch} can't be saved on its own: it runs "
            f"{self.original.name!r}, in which that join is not a node of a functional "
            "graph. Save the original, and call layertap.submodels on it again."
        )
