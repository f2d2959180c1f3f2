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
from layertap.errors import LayertapError

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


def wrong_options() -> None:
    layertap.plan(model, joins="ad")  # type: ignore[arg-type]
    layertap.capture(model, x, dtype="half")  # type: ignore[arg-type]
    layertap.capture(model, x, reduce="mean")  # type: ignore[arg-type]
    layertap.save(model, x, "v.zarr", compression="gzip")  # type: ignore[arg-type]
    layertap.plan(model, gradients="los")  # type: ignore[arg-type]
    layertap.capture(model, x, attributions=0, baseline="no")  # type: ignore[arg-type]
    layertap.Recorder(x, "run", save_freq="batch")  # type: ignore[arg-type]
    layertap.Recorder(x, "run", dtype="half")  # type: ignore[arg-type]
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


def errors() -> None:
    try:
        layertap.save(model, x, "v.zarr")
    except layertap.OtherRunError as error:
        assert_type(error, layertap.OtherRunError)
    except layertap.StoreError as error:
        raise LayertapError(str(error)) from error
    except layertap.NopeError:  # type: ignore[attr-defined]
        pass
