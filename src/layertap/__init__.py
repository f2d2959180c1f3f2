"""Saves what flows into every concatenation of a Keras model.

```python
import layertap

plan = layertap.plan(model)                        # prints as a table
values = layertap.capture(model, x)                # in memory
saved = layertap.save(model, data, "values.zarr")  # on disk
saved = layertap.open("values.zarr")
report = layertap.verify(saved, model, data)
report = layertap.diff("one.zarr", "other.zarr")
models = layertap.submodels(model, before="fusion")
stem, head = layertap.split(model, before="fusion")
```
"""

import importlib
from typing import TYPE_CHECKING, Any

from layertap import errors
from layertap.errors import LayertapError

if TYPE_CHECKING:
    from layertap.capturing import capture as capture
    from layertap.comparing import diff as diff
    from layertap.differing import Difference as Difference
    from layertap.importances import Importance as Importance
    from layertap.planning import plan as plan
    from layertap.plans import Plan as Plan
    from layertap.saved import Saved as Saved
    from layertap.saved import open as open
    from layertap.saving import save as save
    from layertap.splitting import split as split
    from layertap.splitting import submodels as submodels
    from layertap.values import Values as Values
    from layertap.verifying import Report as Report
    from layertap.verifying import verify as verify
    from layertap.weighing import importance as importance

# Where each name stands. Loaded when it is first used: `layertap --help` and
# `layertap.open` need no Keras.
_ROOMS = {
    "Difference": "differing",
    "Importance": "importances",
    "Plan": "plans",
    "Report": "verifying",
    "Saved": "saved",
    "Values": "values",
    "capture": "capturing",
    "diff": "comparing",
    "importance": "weighing",
    "open": "saved",
    "plan": "planning",
    "save": "saving",
    "split": "splitting",
    "submodels": "splitting",
    "verify": "verifying",
}

_WITHOUT_KERAS = ("comparing", "differing", "importances", "plans", "saved", "values")

__all__ = ["LayertapError", *_ROOMS]


def __getattr__(name: str) -> Any:
    error = vars(errors).get(name)
    if isinstance(error, type):
        # As tracebacks call them; and where they are looked for when one is unpickled.
        return error
    if name not in _ROOMS:
        raise AttributeError(f"module 'layertap' has no attribute {name!r}")
    if _ROOMS[name] not in _WITHOUT_KERAS:
        # First, for it says what to do where Keras lacks its backend.
        importlib.import_module("layertap.listening")
    found = getattr(importlib.import_module(f"layertap.{_ROOMS[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
