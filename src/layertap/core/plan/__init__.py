"""The plan of a save, and its records."""

from layertap.core.plan.plan import Plan, named_branches
from layertap.core.plan.records import (
    Branch,
    Derived,
    Ignored,
    Join,
    Output,
    Recipe,
    Refused,
    Shape,
    Value,
    described,
    itemsize,
)

__all__ = [
    "Branch",
    "Derived",
    "Ignored",
    "Join",
    "Output",
    "Plan",
    "Recipe",
    "Refused",
    "Shape",
    "Value",
    "described",
    "itemsize",
    "named_branches",
]
