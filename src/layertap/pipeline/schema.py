"""Describes the store of a run: its arrays and its manifest."""

from dataclasses import dataclass
from typing import Any

from layertap.core.values import auxiliary_arrays, auxiliary_dtype
from layertap.errors import DataError, check_number
from layertap.pipeline.run import Run
from layertap.store.format.layout import ArraySpec
from layertap.store.format.sizing import DEFAULT_MEMORY


@dataclass(frozen=True)
class StoreOptions:
    """How a store is written, resumed or replaced. See `layertap.save`."""

    compression: str | None = None
    resume: bool = True
    overwrite: bool = False
    memory: int = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        check_number("`memory`", self.memory, 1)

    @property
    def layout(self) -> dict[str, Any]:
        """The options that a writer of a new store accepts."""
        return {"compression": self.compression, "memory": int(self.memory)}


def store_schema(run: Run) -> tuple[list[ArraySpec], dict[str, Any]]:
    """Returns the arrays and the manifest of a store for a run."""
    plan = run.plan
    arrays = []
    for value in plan.stored:
        if value.bytes_per_row is None:
            raise DataError(
                f"{value.address} of shape {value.shape} can't be saved: a size is "
                "only known row by row. Pad the data to one size, or pass the largest "
                "size, for example pad=512."
            )
        sizes = tuple(n for n in value.shape[1:] if n is not None)
        made_by = {"made_by": value.made_by}
        arrays.append(ArraySpec(value.address, sizes, value.dtype, made_by))
    arrays += [
        ArraySpec(name, (len(columns),), auxiliary_dtype(name), {"columns": columns})
        for name, columns in auxiliary_arrays(plan).items()
    ]
    arrays += [
        ArraySpec(name, array.shape[1:], array.dtype.name)
        for name, array in run.data_arrays(run.feed.first()).items()
    ]
    manifest = {"identity": run.identity, "plan": plan.to_json(), **run.notes()}
    return arrays, manifest
