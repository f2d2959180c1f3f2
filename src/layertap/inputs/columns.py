"""Columns of a table: inputs of a model, labels, sample weights, ids, or not used."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from layertap.core.address import IDS, LABELS, SAMPLE_WEIGHT, suggest
from layertap.errors import DataError, OptionError


class Table(dict[str, Any]):
    """Columns of a file, by name. Some may not be inputs of any model."""

    # Whether the only column may have another name than the only input.
    any_name = False


class Parts(NamedTuple):
    """What data hold for the same rows: inputs, and parts that are saved along."""

    inputs: Any
    labels: Any = None
    sample_weight: Any = None
    ids: Any = None


class Columns:
    """Finds a use for each column: the names of inputs, `labels` and so on, or chosen.

    Args:
        inputs: The names of a model's inputs, none for a model without a graph.
        labels: The column of the labels, or None.
        ids: The column of the ids, or None. Or ids, and no column is needed.
    """

    def __init__(self, inputs: Collection[str], labels: Any, ids: Any) -> None:
        if not isinstance(labels, str | None):
            raise OptionError(
                "`labels` is invalid. Expected the name of a column. Received "
                f"{type(labels).__name__}. Pass labels with the data: (x, labels)."
            )
        self._inputs = inputs
        self._chosen = {LABELS: labels, SAMPLE_WEIGHT: None, IDS: ids}
        self.unused: dict[str, None] = {}

    def split(self, columns: Mapping[Any, Any], *others: Any) -> Parts:
        """Splits columns; `others` are labels and sample weights apart from them."""
        rest = dict(columns)
        parts = Parts(None, *others)._asdict()
        # Without a graph, a model may use a column of any name.
        free = bool(self._inputs) or isinstance(columns, Table)
        for use, chosen in self._chosen.items():
            if isinstance(chosen, str):
                parts[use] = self._choose(use, columns, parts[use])
                if chosen not in self._inputs:
                    rest.pop(chosen, None)
            elif chosen is parts[use] is None and free and use not in self._inputs:
                parts[use] = rest.pop(use, None)
        if not rest:
            raise DataError(
                "The data hold no input of the model. Received "
                f"{', '.join(map(repr, columns)) or 'no columns'}."
            )
        parts["inputs"] = self._inputs_of(rest, columns)
        return Parts(**parts)

    def check_no_names(self, data: Any) -> None:
        """Raises if a column is chosen: these data have none."""
        for use, chosen in self._chosen.items():
            if isinstance(chosen, str):
                raise OptionError(
                    f"`{use}` names the column {chosen!r}, but the data have no "
                    "columns. Expected a dictionary of arrays, or a file of several. "
                    f"Received {type(data).__name__}."
                )

    def _choose(self, use: str, columns: Mapping[Any, Any], other: Any) -> Any:
        name: str = self._chosen[use]
        if other is not None:
            raise OptionError(
                f"`{use}` names the column {name!r}, but the data are a tuple with "
                f"{use} of its own. Pass one of them."
            )
        if name not in columns:
            raise DataError(
                f"The data have no column {name!r} for `{use}`. "
                + suggest(name, map(str, columns), what="column")
            )
        return columns[name]

    def _inputs_of(self, rest: dict[Any, Any], columns: Mapping[Any, Any]) -> Any:
        only = len(rest) == 1 and isinstance(columns, Table)
        any_name = getattr(columns, "any_name", False) and len(self._inputs) == 1
        if only and (not self._inputs or any_name):
            return next(iter(rest.values()))
        if not self._inputs:
            return rest
        names = [str(name) for name in rest if name not in self._inputs]
        self.unused |= dict.fromkeys(names)
        return {name: find_input(rest, name) for name in self._inputs}


def find_input(columns: Mapping[Any, Any], name: str) -> Any:
    """Returns the column of an input of the model."""
    if name in columns:
        return columns[name]
    raise DataError(
        f"The model's input {name!r} is not in the data. Received "
        f"{', '.join(map(repr, columns))}. "
        + suggest(name, map(str, columns), what="name in the data")
    )
