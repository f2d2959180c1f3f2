"""A billion rows of 50 branches, as layertap lays them out: sizes, counts, sums.

Everything that is counted here comes of the code that a save runs, but for values and a
network: how arrays are cut into blocks, what markers and records hold, what is noted of
a block.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.core.plan import Branch, Join, Plan
from layertap.results.statistics.gather import Gatherer
from layertap.store.format import digests, sizing
from layertap.store.format.layout import ArrayLayout, ArraySpec
from layertap.store.format.root import Root
from layertap.store.format.zarr_json import to_json
from layertap.store.writing.block_records import Record

ROWS = 10**9
# Ten branches of each width.
WIDTHS = (64, 128, 256, 512, 1024)
EACH = 10
STORE = "0" * 32
MIB = 2**20
MEMORIES = (64 * MIB, 512 * MIB, 2048 * MIB, 8192 * MIB)


@cache
def plan() -> Plan:
    """Returns the plan: 50 vectors that are joined."""
    widths = [width for _ in range(EACH) for width in WIDTHS]
    branches = tuple(
        Branch(f"fusion/in/{i}", f"branch_{i:02}/relu", (None, width), "float32")
        for i, width in enumerate(widths)
    )
    join = Join("fusion", "concatenate", 1, (None, sum(widths)), "float32", branches)
    return Plan("model", joins=(join,))


@cache
def specs() -> list[ArraySpec]:
    """Returns the arrays: branches, and one number a row for digests and the like."""
    values = [
        ArraySpec(v.address, (v.shape[1] or 0,), v.dtype, {"made_by": v.made_by})
        for v in plan().stored
    ]
    auxiliary = {"digests": "uint64", "labels": "int64", "ids": "int64"}
    return values + [ArraySpec(name, (), dtype) for name, dtype in auxiliary.items()]


def activations(width: int, rows: int) -> NDArray[np.float32]:
    """Returns values that a branch with a ReLU at its end may have."""
    drawn = np.random.default_rng(width).standard_normal((rows, width), np.float32)
    return np.maximum(drawn, 0)


def noted(rows: int) -> dict[str, Any]:
    """Returns the notes of a worker on a block of `rows` rows."""
    alike = {width: activations(width, rows) for width in WIDTHS}
    found: dict[str, Any] = {}
    for width, array in alike.items():
        branches = [v for v in plan().stored if v.shape[1] == width]
        of_one = Gatherer(replace(plan(), joins=(_join_of(branches[:1]),)))
        (statistics,) = of_one.summarize({branches[0].address: array}).values()
        found.update((branch.address, statistics) for branch in branches)
    return {value.address: found[value.address] for value in plan().stored}


def _join_of(branches: Any) -> Join:
    return replace(plan().joins[0], branches=tuple(branches))


def record(layouts: list[ArrayLayout], block: int, notes: Any) -> Record:
    """Returns the record of a full block."""
    digests = {layout.spec.path: f"{block:016x}" for layout in layouts}
    return Record(STORE, block, layouts[0].block_rows, digests, notes)


@dataclass(frozen=True)
class Size:
    """How large all is, for one choice of `memory=`.

    Args:
        memory: The bytes that `memory=` has.
    """

    memory: int

    @cached_property
    def layouts(self) -> list[ArrayLayout]:
        """The arrays, as `layertap.distributed.save` lays them out."""
        return sizing.lay_out(specs(), STORE, compression=None, memory=self.memory)

    @property
    def block_rows(self) -> int:
        """The rows of a block."""
        return self.layouts[0].block_rows

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return math.ceil(ROWS / self.block_rows)

    @property
    def objects(self) -> int:
        """The shards: one of each block and array."""
        return self.blocks * len(self.layouts)

    def shards(self, rows: int) -> list[int]:
        """Returns the bytes of the shards of a block with `rows` rows."""
        return [layout.shard_sizes(rows)[0] for layout in self.layouts]

    @property
    def shard_bytes(self) -> int:
        """The bytes of all shards."""
        last = ROWS - (self.blocks - 1) * self.block_rows
        full = sum(self.shards(self.block_rows))
        return (self.blocks - 1) * full + sum(self.shards(last))

    @cached_property
    def record_bytes(self) -> int:
        """The bytes of a record, with what is noted of a block."""
        notes = noted(self.block_rows)
        return len(record(self.layouts, self.blocks - 1, notes).contents())

    @cached_property
    def _marker(self) -> list[int]:
        """The bytes of each marker of a complete store, but for its digests."""
        return [len(to_json(_whole(layout).metadata())) for layout in self.layouts]

    @property
    def marker_bytes(self) -> int:
        """The bytes of all markers of the complete store."""
        hexadecimals = digests.DIGITS * self.blocks
        return sum(each + hexadecimals for each in self._marker)

    @property
    def largest_marker(self) -> int:
        """The bytes of the largest of them."""
        return max(self._marker) + digests.DIGITS * self.blocks

    @property
    def rewritten_bytes(self) -> int:
        """The bytes of markers that `layertap.save` puts: all, for each block."""
        ends = np.minimum(np.arange(1, self.blocks + 1) * self.block_rows, ROWS)
        digits = sum(int((ends >= 10**n).sum()) for n in range(1, 10)) + self.blocks
        empty = [replace(_whole(each), rows=0).metadata() for each in self.layouts]
        least = sum(len(to_json(each)) - 1 for each in empty) * self.blocks
        hexadecimals = digests.DIGITS * self.blocks * (self.blocks + 1) // 2
        return least + len(self.layouts) * (digits + hexadecimals)


def _whole(layout: ArrayLayout) -> ArrayLayout:
    """Returns an array with all rows, as a bucket marks it, without its digests."""
    return replace(layout, rows=ROWS, writer="0" * 8)


def root_bytes(rows: int) -> int:
    """Returns the bytes of a complete store's root, but for the run's identity.

    Args:
        rows: Of how many rows the statistics are, which all are alike.
    """
    gatherer = Gatherer(plan())
    gatherer.add_summary(rows, noted(rows))
    attributes = {"plan": plan().to_json(), "statistics": gatherer.to_json()}
    paths = tuple(spec.path for spec in specs())
    root = Root(
        store=STORE, complete=True, rows=ROWS, arrays=paths, attributes=attributes
    )
    return len(root.contents)
