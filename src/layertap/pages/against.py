"""A second store, which a page compares with the first."""

import math
from dataclasses import dataclass

from layertap.core.address import DIGESTS
from layertap.pages.facts import PageFacts, ValueFacts, similarities, value_facts
from layertap.pages.sample import Rows, read, sample_rows
from layertap.results.saved import Saved


@dataclass(frozen=True)
class Counterpart:
    """A value in the other store.

    Attributes:
        facts: Its facts there.
        same_inputs: Whether both stores read the same inputs in the rows compared.
        similarity: Unbiased linear CKA with the first store, on these rows; NaN where
            the inputs differ.
        uncertainty: Its standard error.
    """

    facts: ValueFacts
    same_inputs: bool
    similarity: float
    uncertainty: float


def counterparts(page: PageFacts, other: Saved) -> dict[str, Counterpart]:
    """Returns the values that both stores have, by address."""
    addresses = {*other.plan.addresses}
    names = [value.address for value in page.values if value.address in addresses]
    if not names:
        return {}
    # No more rows than either store allows.
    most = min(len(page.rows), len(sample_rows(other, names)))
    rows = page.rows[page.rows < other.rows][:most]
    same = _same_inputs(page.saved, other, rows)
    found = {}
    for name in names:
        theirs = read(other, name, rows)
        facts = value_facts(other, name, theirs, rows, most=1)
        similarity = uncertainty = math.nan
        if same:
            both, error = similarities([read(page.saved, name, rows), theirs])
            similarity, uncertainty = float(both[0, 1]), float(error[0, 1])
        found[name] = Counterpart(facts, same, similarity, uncertainty)
    return found


def _same_inputs(one: Saved, other: Saved, rows: Rows) -> bool:
    """Whether some rows of two stores were computed from the same inputs."""
    if not len(rows):
        return False
    ours, theirs = (saved.reader.array(DIGESTS)[rows] for saved in (one, other))
    return bool((ours == theirs).all())
