"""Parts of a model, as models: one for each branch of a join."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from layertap import address, listening
from layertap.errors import ModelError, OptionError
from layertap.planning import plan
from layertap.plans import Branch
from layertap.values import branches


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
        `model` takes. Where the join stands in a functional graph, they are functional
        and can be saved; elsewhere they listen to the original, and can't.

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
    if not join.whole:
        reasons = "; ".join(f"{r.address}: {r.reason}" for r in made.refused)
        raise ModelError(f"Not every branch of {join.path!r} can be had. {reasons}")
    by_address = {branch.address: branch for branch in join.branches}
    return {
        made_by: _submodel(model, by_address[name], join.kind)
        for made_by, name in branches(made, join.path)
    }


def _submodel(model: keras.Model, branch: Branch, kind: str) -> keras.Model:
    path, _, index = address.parse(branch.address)
    # TensorFlow takes a model's name as that of a scope, which is narrow.
    name = "before_" + re.sub(r"\W", "_", branch.address, flags=re.ASCII)
    graph = listening.branch_graph(model, path, index, branch.dtype, name)
    if graph is not None:
        return graph
    return ListeningModel(model, branch.address, kind, name=name)


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
        found = listening.collect(self.original, inputs, wanted, {}, {self.kind})
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
