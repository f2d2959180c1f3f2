"""Parts of a model, as models: its branches; what is before a join, and after it."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from layertap.core import address
from layertap.core.values import branches
from layertap.errors import ModelError, OptionError
from layertap.planning.planner import cut_of, plan, specs_for
from layertap.tracing.collect import collect
from layertap.tracing.graphs.build import clone


def split(
    model: keras.Model,
    before: str | Sequence[str] | None = None,
    *,
    like: Any = None,
    joins: str | Sequence[str] = ("concatenate",),
    copy: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """Cuts a model in two before a join: `head(stem(x))` is `model(x)`, bit for bit.

    The head takes what `layertap.save(model, data, path, before=before,
    for_head=True)` saves: a dictionary of the join's branches by address and, where
    connections run past the join, of the values that they carry. Nested models are
    opened where the join stands inside.

    The parts share the layers of the model, and its weights: training the head trains
    them in the model too. They are functional models, which can be compiled, trained,
    saved and loaded on their own. (Loading a head, Keras warns that its inputs have
    other names than their addresses, which have a slash.)

    Args:
        model: A Keras model. It is not changed, and its layers get no new nodes.
        before: Glob, or globs, over the paths of joins, which are one cut: the head
            takes the branches of all of them. Not needed if there is only one.
        like: As of `layertap.plan`.
        joins: As of `layertap.plan`.
        copy: Whether the head is to have layers and weights of its own.

    Returns:
        The stem, which takes what the model takes, and the head, which returns what it
        returns.

    Raises:
        ModelError: If the model can't be written out as one graph with the join in it:
            its `call` has to be run with values, or uses weights of its own. The way
            that works then is told.
        OptionError: If one of the joins only leads to others of them.
        LayertapError: As of `layertap.plan`.

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
    cut = cut_of(model, specs, made)
    stem = cut.stem(f"{model.name}_stem")
    head = cut.head(f"{model.name}_head")
    return stem, clone(head) if copy else head


def submodels(
    model: keras.Model,
    before: str | None = None,
    *,
    like: Any = None,
    joins: str | Sequence[str] = ("concatenate",),
) -> dict[str, keras.Model]:
    """Makes one model for each branch of a join, sharing the original's variables.

    Right for layers that are called twice and for nested models, where
    `keras.Model(model.inputs, layer.output)` is not. To save values, `layertap.save`
    is the faster way: it runs the model once, not once for each branch.

    Args:
        model: A Keras model. It is not changed, and its layers get no new nodes.
        before: The path of the join; not needed if there is only one.
        like: As of `layertap.plan`.
        joins: As of `layertap.plan`.

    Returns:
        By what made the branch, in the order of the branches, models that take what
        `model` takes. Where the model can be written out as a graph, as of `split`,
        they are functional and can be saved; elsewhere they listen to the original,
        and can't.

    Raises:
        OptionError: If `before` does not name one join.
        ModelError: If a branch can't be had.

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
            f"`before` has to name one join; {before!r} stands for {paths} of "
            f"{model.name!r}."
        )
    join = made.joins[0]
    names = branches(made, join.path)
    try:
        cut = cut_of(model, specs_for(model, like)[0], made)
    except ModelError:
        if not join.whole:
            raise
        return {
            made_by: ListeningModel(model, name, join.kind, name=_name(name))
            for made_by, name in names
        }
    return {made_by: cut.stem(_name(name), [name]) for made_by, name in names}


def _name(branch: str) -> str:
    # TensorFlow takes a model's name as that of a scope, which is narrow.
    return "before_" + re.sub(r"\W", "_", branch, flags=re.ASCII)


class ListeningModel(keras.Model):
    """A model of one branch that runs the original until it has heard the branch.

    Args:
        model: The original.
        branch: The address of the branch.
        kind: The kind of its join.
        name: The name of this model.
    """

    def __init__(self, model: keras.Model, branch: str, kind: str, name: str) -> None:
        super().__init__(name=name)
        self.original = model
        self.branch = branch
        self.kind = kind
        # All its variables are the original's.
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns the branch's value."""
        path, _, index = address.parse(self.branch)
        wanted = {path: {index: self.branch}}
        found = collect(self.original, inputs, wanted, {}, {self.kind})
        return found[self.branch]

    def get_config(self) -> dict[str, Any]:
        """Raises: this model is no graph, and the original belongs to the user.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"The model of {self.branch} listens to {self.original.name!r}, in which "
            "that join is no node of a functional graph, so it can't be saved on its "
            "own. Save the original, and call layertap.submodels on it again."
        )
