"""Saves the values of the branches of a Keras model, before they are joined.

```python
import layertap

plan = layertap.plan(model)                        # prints as a table
values = layertap.capture(model, x)                # in memory
tap = layertap.tap(model, before="fusion")         # compiled once: tap(x)
saved = layertap.save(model, data, "values.zarr")  # on disk
saved = layertap.open("values.zarr")
photos = layertap.images("photos/", size=(299, 299))  # data for all of these
report = layertap.verify(saved, model, data)
report = layertap.diff("one.zarr", "other.zarr")
models = layertap.submodels(model, before="fusion")
stem, head = layertap.split(model, before="fusion")
maps = layertap.grad_cam(saved, "conv/out")        # saved with gradients=
layertap.export(saved, "values.parquet")           # .h5 .npz .safetensors .tsv
layertap.report(saved, "page.html")                # pictures, in one file
recorder = layertap.Recorder(x, "run")             # fit(..., callbacks=[recorder])
recording = layertap.Recording("run")              # step -> saved values
```
"""

import importlib
from typing import TYPE_CHECKING, Any

from layertap import errors
from layertap.errors import LayertapError

if TYPE_CHECKING:
    from layertap.analysis.diff import diff as diff
    from layertap.analysis.importance import importance as importance
    from layertap.analysis.importance_report import Importance as Importance
    from layertap.analysis.reports import Difference as Difference
    from layertap.analysis.reports import Report as Report
    from layertap.analysis.verify import verify as verify
    from layertap.core.plan.plan import Plan as Plan
    from layertap.core.values import Values as Values
    from layertap.errors import AddressError as AddressError
    from layertap.errors import BackendMissingError as BackendMissingError
    from layertap.errors import DataError as DataError
    from layertap.errors import DataTypeError as DataTypeError
    from layertap.errors import ListeningError as ListeningError
    from layertap.errors import ModelError as ModelError
    from layertap.errors import ModelFileError as ModelFileError
    from layertap.errors import NoJoinsError as NoJoinsError
    from layertap.errors import NotAStoreError as NotAStoreError
    from layertap.errors import OptionError as OptionError
    from layertap.errors import OtherRunError as OtherRunError
    from layertap.errors import PartialWarning as PartialWarning
    from layertap.errors import RefusedError as RefusedError
    from layertap.errors import StoreCorruptError as StoreCorruptError
    from layertap.errors import StoreError as StoreError
    from layertap.errors import StoreFormatError as StoreFormatError
    from layertap.exports.export import export as export
    from layertap.inputs.images import images as images
    from layertap.pages.report import report as report
    from layertap.pipeline.capture import capture as capture
    from layertap.pipeline.save import save as save
    from layertap.pipeline.tap import Tap as Tap
    from layertap.pipeline.tap import tap as tap
    from layertap.planning.planner import plan as plan
    from layertap.planning.split import split as split
    from layertap.planning.split import submodels as submodels
    from layertap.recording.recorder import Recorder as Recorder
    from layertap.recording.recording import Recording as Recording
    from layertap.results.grad_cam import grad_cam as grad_cam
    from layertap.results.saved import Saved as Saved
    from layertap.results.saved import open as open

    __version__: str

# The module of each name, loaded at first use: `layertap --help` and `layertap.open`
# need no Keras.
_EXPORTS = {
    "Difference": "analysis.reports",
    "Importance": "analysis.importance_report",
    "Plan": "core.plan.plan",
    "Recorder": "recording.recorder",
    "Recording": "recording.recording",
    "Report": "analysis.reports",
    "Saved": "results.saved",
    "Tap": "pipeline.tap",
    "Values": "core.values",
    "capture": "pipeline.capture",
    "diff": "analysis.diff",
    "export": "exports.export",
    "grad_cam": "results.grad_cam",
    "images": "inputs.images",
    "importance": "analysis.importance",
    "open": "results.saved",
    "plan": "planning.planner",
    "report": "pages.report",
    "save": "pipeline.save",
    "split": "planning.split",
    "submodels": "planning.split",
    "tap": "pipeline.tap",
    "verify": "analysis.verify",
}

_WITHOUT_KERAS = (
    "analysis.diff",
    "analysis.reports",
    "analysis.importance_report",
    "core.plan.plan",
    "exports.export",
    "pages.report",
    "recording.recording",
    "results.grad_cam",
    "results.saved",
    "core.values",
)

__all__ = ["LayertapError", *_EXPORTS]


if not TYPE_CHECKING:
    # A type checker knows the names above, and no others.

    def __getattr__(name: str) -> Any:
        error = vars(errors).get(name)
        if isinstance(error, type) and issubclass(error, LayertapError | Warning):
            # The names in tracebacks and pickles.
            return error
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("layertap")
        if name not in _EXPORTS:
            raise AttributeError(f"module 'layertap' has no attribute {name!r}")
        if _EXPORTS[name] not in _WITHOUT_KERAS:
            # First, because its error says how to install the backend of Keras.
            importlib.import_module("layertap.tracing")
        value = getattr(importlib.import_module(f"layertap.{_EXPORTS[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
