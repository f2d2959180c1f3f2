"""Typical uses, for type checkers alone: `make lint` runs mypy and Pyright on it.

A comment that ignores an error is an error itself where there is none.
"""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import layertap
import layertap.distributed

model: Any = None
x = np.zeros((4, 2))


def options() -> None:
    layertap.plan(model, joins="add", reduce="avg")
    layertap.plan("model.keras", like="data.npz", joins=["add", "concatenate"])
    layertap.capture(model, x, dtype="float16", reduce=lambda tensor: tensor[:, 0])
    layertap.save(model, x, "v.zarr", dtype=np.float16, compression="zstd")
    layertap.distributed.save("model.keras", "photos/", "v.zarr", joins="*")
    layertap.capture(model, x, gradients="loss", attributions=3, baseline="mean")
    layertap.Recorder(x, "run", save_freq=10, before="fusion", gradients="loss")
    layertap.export("v.zarr", "v.parquet", addresses="fusion/*", overwrite=True)
    layertap.open("v.zarr").dataset(inputs={"image": x}, labels={"answer": x})
    layertap.save(model, x, "v.zarr", gradients=lambda outputs: outputs[:, 0], steps=16)
    layertap.report(layertap.Recording("run"), "p.html", inputs=x, projection="umap")
    layertap.report("v.zarr", Path("p.html"), against="w.zarr", overwrite=True)
    layertap.images("photos", (8, 9), channels=3, data_format="channels_first")
    layertap.importance("v.zarr", model, branches="fusion/in/*", rows=range(8))
    layertap.submodels(model, "fusion", joins=["add", "multiply"], like=x)
    layertap.split(model, ["a", "b"], joins="*", copy=True)
    layertap.diff("v.zarr", Path("w.zarr"), rows=9, pairs={"a": "b"})
    layertap.verify("v.zarr", model, "data.npz", reduce="avg")
    layertap.tap(model).predict(x, replace={"a": "zero", "b": "mean", "c": x})


def wrong_options() -> None:
    layertap.plan(model, joins="ad")  # type: ignore[arg-type]
    layertap.capture(model, x, dtype="half")  # type: ignore[arg-type]
    layertap.capture(model, x, reduce="mean")  # type: ignore[arg-type]
    layertap.save(model, x, "v.zarr", compression="gzip")  # type: ignore[arg-type]
    layertap.plan(model, gradients="los")  # type: ignore[arg-type]
    layertap.capture(model, x, attributions=0, baseline="no")  # type: ignore[arg-type]
    layertap.Recorder(x, "run", save_freq="batch")  # type: ignore[arg-type]
    layertap.Recorder(x, "run", dtype="half")  # type: ignore[arg-type]
    layertap.report("v.zarr", "p.html", projection="tsne")  # type: ignore[arg-type]
    layertap.report(layertap.Values, "p.html")  # type: ignore[arg-type]
    layertap.report("v.zarr", "p.html", x)  # type: ignore[arg-type]
    layertap.images("photos", 8)  # type: ignore[arg-type]
    layertap.images("photos", data_format="first")  # type: ignore[arg-type]
    layertap.importance("v.zarr", model, repeats="8")  # type: ignore[arg-type]
    layertap.submodels(model, joins="ad")  # type: ignore[arg-type]
    layertap.split(model, joins=["ad"])  # type: ignore[list-item]
    layertap.diff("v.zarr", x)  # type: ignore[arg-type]
    layertap.verify(x, model)  # type: ignore[arg-type]
    layertap.tap(model).predict(x, replace={"a": "zeros"})  # type: ignore[dict-item]
    layertap.export("v.zarr")  # type: ignore[call-arg]
    layertap.open(12)  # type: ignore[arg-type]
    layertap.open("v.zarr").rows = 12  # type: ignore[misc]
    layertap.grad_cam("v.zarr", 12)  # type: ignore[arg-type]
    layertap.Recording(12)  # type: ignore[arg-type]
    layertap.nope()  # type: ignore[attr-defined]


def results() -> None:
    assert_type(layertap.plan(model), layertap.Plan)
    values = layertap.capture(model, x)
    assert_type(values, layertap.Values)
    assert_type(values["fusion/in/0"], NDArray[Any])
    saved = layertap.open("v.zarr")
    assert_type(saved, layertap.Saved)
    assert_type(saved.rows, int)
    assert_type(saved.class_names, list[str])
    assert_type(layertap.verify(saved, model, x), layertap.Report)
    assert_type(layertap.tap(model).gradients(x, of=3), layertap.Values)
    assert_type(values.gradients["fusion/in/0"], NDArray[Any])
    assert_type(layertap.grad_cam(saved, "conv/out"), NDArray[np.float32])
    assert_type(len(saved.dataset()), int)
    assert_type(len(saved.torch()), int)
    recording = layertap.Recording("run")
    assert_type(recording[12], layertap.Saved)
    assert_type(recording.statistics["fusion/in/0"].dead, NDArray[np.int64])
    assert_type(recording.similarity()["fusion/in/0"].to_last, NDArray[np.float64])
    assert_type(layertap.export(saved, "v.npz"), Path)
    assert_type(layertap.report(saved, "page.html"), Path)
    assert_type(saved.plot("fusion/in/0", rows=[3]), Figure)
    assert_type(recording.plot("fusion/in/0"), Figure)
    assert_type(saved.labels[:], NDArray[Any] | Any)


def reports() -> None:
    assert_type(layertap.__version__, str)
    tap = layertap.tap(model)
    assert_type(tap, layertap.Tap)
    assert_type(tap(x), layertap.Values)
    assert_type(tap.plan, layertap.Plan)
    verified = layertap.verify("v.zarr", model, x)
    assert_type(verified.ok, bool)
    assert_type(verified.to_json(), dict[str, Any])
    difference = layertap.diff("v.zarr", "w.zarr")
    assert_type(difference, layertap.Difference)
    assert_type(difference.ok, bool)
    importance = layertap.importance("v.zarr", model)
    assert_type(importance, layertap.Importance)
    assert_type(importance.ranked[0].address, str)
    photos = layertap.images("photos")
    assert_type(photos.shape, tuple[int, ...])
    assert_type(layertap.Recorder(x, "run").recording, layertap.Recording)


def errors() -> None:
    try:
        layertap.save(model, x, "v.zarr")
    except layertap.OtherRunError as error:
        assert_type(error, layertap.OtherRunError)
    except layertap.StoreError as error:
        raise layertap.LayertapError(str(error)) from error
    except layertap.NopeError:  # type: ignore[attr-defined]
        pass
