"""Compares joins of published architectures with a recording that is not layertap's.

`make test-hub` runs it on each backend, with the backbones of keras-hub in the small
configurations of its own tests, and with `keras.applications`. Keras runs each model
eagerly; meanwhile, the backend's concatenations note their inputs. Each join that
layertap captures has to be one of the noted calls.
"""

import argparse
import ast
import importlib.util
import json
import re
import signal
import sys
import time
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
from absl.testing import parameterized

import layertap
from layertap.errors import LayertapError

BACKEND = keras.backend.backend()
ROWS = 3
# Keras-hub's helpers that run a backbone. Of a parameterized test, so many cases count.
RUNNERS = ("run_backbone_test", "run_vision_backbone_test")
CASES = 1
APPLICATIONS = """
MobileNet MobileNetV2 MobileNetV3Small DenseNet121 InceptionV3 InceptionResNetV2
NASNetMobile EfficientNetB0 EfficientNetV2B0 ResNet50 ResNet50V2 VGG16 Xception
ConvNeXtTiny
"""

Model = tuple[keras.Model, Any]
Noted = tuple[str, list[Any], str]


class FoundError(Exception):
    """Leaves a test of keras-hub with the class, the arguments and the data."""


def found(_: Any, cls: Any, init_kwargs: Any, input_data: Any, **__: Any) -> None:
    raise FoundError(cls, init_kwargs, input_data)


class Base(parameterized.TestCase):
    """Stands in for the base class of keras-hub's tests."""

    run_backbone_test = run_vision_backbone_test = found


def backbones(source: Path) -> Iterator[tuple[str, Callable[[], Model]]]:
    """Yields the models of keras-hub's own tests."""
    # Their own base class needs more packages.
    base = types.ModuleType("keras_hub.src.tests.test_case")
    base.TestCase = Base
    sys.modules[base.__name__] = base
    for path in sorted(source.glob("keras_hub/src/models/*/*backbone_test.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for node in ast.parse(path.read_text()).body:
            for test in node.body if isinstance(node, ast.ClassDef) else ():
                if any(runner in ast.unparse(test) for runner in RUNNERS):
                    cls = getattr(module, node.name)
                    names = [name for name in vars(cls) if name.startswith(test.name)]
                    for name in names[:CASES]:
                        yield f"{node.name}.{name}", lambda c=cls, n=name: built(c, n)


def built(cls: Any, name: str) -> Model:
    test = cls(name)
    test.setUp()
    try:
        getattr(test, name)()
    except FoundError as found:
        kind, arguments, data = found.args
        return kind(**arguments), data
    raise RuntimeError(f"{name} ran no backbone")


def applications() -> Iterator[tuple[str, Callable[[], Model]]]:
    """Yields the smallest network of each family of `keras.applications`."""
    shape = (96, 96, 3)
    for name in APPLICATIONS.split():
        cls = getattr(keras.applications, name)
        yield (
            f"applications.{name}",
            lambda cls=cls: (
                cls(weights=None, input_shape=shape, classes=5),
                np.ones((2, *shape), "float32"),
            ),
        )


def varied(data: Any, rows: int | None, name: str = "") -> Any:
    """Returns data whose rows differ, in place of ones."""
    if isinstance(data, dict):
        return {key: varied(value, rows, str(key)) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(varied(value, rows, name) for value in data)
    array = keras.ops.convert_to_numpy(data)
    if rows is not None:
        array = np.resize(array, (rows, *array.shape[1:]))
    rng = np.random.default_rng(len(name))
    if "token_ids" in name and array.max(initial=0) <= 1:
        return rng.integers(1, 10, array.shape).astype(array.dtype)
    if name == "num_steps":  # One step of diffusion is 0 / 0.
        return array + 3
    if np.issubdtype(array.dtype, np.floating) and np.all(array == 1):
        return rng.uniform(size=array.shape).astype("float32")
    return array


def vary_weights(model: keras.Model) -> None:
    """Adds small numbers to all weights, of which many begin as zeros."""
    rng = np.random.default_rng(11)
    for variable in model.weights:
        if "float" in variable.dtype:
            noise = rng.normal(0, 0.02, variable.shape)
            variable.assign(keras.ops.convert_to_numpy(variable) + noise)


@contextmanager
def noting(calls: list[Noted]) -> Iterator[None]:
    """Notes the inputs of the backend's concatenations and stacks, in their order."""
    within: list[str] = []

    def noted(original: Any, kind: str, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            # One function of a backend may call another.
            if within:
                return original(*args, **kwargs)
            tensors = {"append": args[:2], "bind": args}.get(name, args[0])
            try:
                arrays = [keras.ops.convert_to_numpy(t) for t in tensors]
            except Exception:  # Inside a loop, tensors have no values.
                arrays = []
            frames = traceback.extract_stack()[:-1]
            where = next(f for f in reversed(frames) if "backend/" not in f.filename)
            short = "/".join(Path(where.filename).parts[-2:])
            if arrays:
                calls.append((kind, arrays, f"{short}:{where.lineno}"))
            within.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                within.pop()

        return call

    with ExitStack() as stack:
        for module, names in noted_functions().items():
            for name, kind in names.items():
                function = noted(getattr(module, name), kind, name)
                stack.enter_context(mock.patch.object(module, name, function))
        if BACKEND == "jax":
            # JAX compiles some of its own functions, such as `roll`, of which one
            # would see no values.
            stack.enter_context(sys.modules["jax"].disable_jit())
        yield


def noted_functions() -> dict[Any, dict[str, str]]:
    """Returns the backend's functions that join, by what they are part of."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return {tf: {"concat": "concatenate", "stack": "stack"}}
    if BACKEND == "torch":
        import torch

        names = ("cat", "concat", "concatenate", "hstack", "vstack")
        return {torch: dict.fromkeys(names, "concatenate") | {"stack": "stack"}}
    from jax import numpy as jnp
    from jax.extend.core.primitives import concatenate_p

    names = dict.fromkeys(("concatenate", "hstack", "append"), "concatenate")
    return {jnp: names | {"stack": "stack"}, concatenate_p: {"bind": "concatenate"}}


def reference(model: keras.Model, data: Any) -> tuple[Any, list[Noted]]:
    """Returns the data and the calls that Keras makes with them, run eagerly."""
    for rows in (ROWS, None):
        calls: list[Noted] = []
        varying = varied(data, rows)
        try:
            with noting(calls), keras.StatelessScope():
                model(varying, training=False)
            return varying, calls
        except Exception as error:  # Some models want as many rows as they have.
            failed = error
    raise RuntimeError(f"Keras itself: {failed}"[:300]) from failed


def agree(captured: Any, noted: Any) -> bool:
    """Whether an array that was captured is one that was noted, as far as rounding."""
    if captured.size != noted.size:
        return False
    forms = [noted]
    if captured.shape != noted.shape:
        # Rows that were folded into another axis, in either order.
        rows, times = captured.shape[:2]
        if noted.shape != (rows * times, *captured.shape[2:]):
            return False
        forms = [
            noted.reshape(captured.shape),
            noted.reshape(times, rows, *captured.shape[2:]).swapaxes(0, 1),
        ]
    if captured.dtype.kind in "bui":
        return any(np.array_equal(captured, form) for form in forms)
    short = {"float16", "bfloat16"} & {captured.dtype.name, noted.dtype.name}
    captured, forms = captured.astype("f8"), [form.astype("f8") for form in forms]
    scale = np.nanmax(np.abs(captured), initial=1)
    within = scale * (3e-2 if short else 1e-3)
    return any(np.allclose(captured, f, 1e-3, within, equal_nan=True) for f in forms)


def compare(model: keras.Model, data: Any, calls: list[Noted]) -> dict[str, Any]:
    """Captures all joins, and compares them with the noted calls."""
    rows = len(keras.tree.flatten(data)[0])
    values = layertap.capture(model, data, joins="all", batch_size=rows)
    left, result, different = list(calls), Counter(), []
    for join in values.plan.joins:
        if join.kind not in ("concatenate", "stack"):
            result["other kinds"] += 1
            continue
        arrays = {int(a.rpartition("/")[2]): values[a] for a in join.addresses}
        if not arrays:
            result["nothing of it"] += 1
            continue
        for call in left:
            kind, inputs, _ = call
            count = len(arrays) if join.whole else 1 + max(arrays)
            like = kind == join.kind and len(inputs) >= count
            if like and all(agree(arrays[i], inputs[i]) for i in arrays):
                result["equal" if join.whole else "equal in part"] += 1
                left = [other for other in left if other is not call]
                break
        else:
            different.append(join.path)
    return {
        **result,
        "noted": len(calls),
        "different": different,
        "refused": reasons(values.plan.refused),
        "not in the plan": dict(Counter(f"{k} {where}" for k, _, where in left)),
    }


def reasons(records: Any) -> dict[str, int]:
    return dict(Counter(record.reason for record in records))


def planned(model: keras.Model, **options: Any) -> dict[str, Any]:
    """Plans in one mode, and counts the joins."""
    plan = layertap.plan(model, **options)
    kinds = Counter(join.kind for join in plan.joins)
    return {"joins": dict(kinds), "ignored": reasons(plan.ignored)}


def attempt(build: Callable[[], Model], modes: str) -> Iterator[dict[str, Any]]:
    """Yields what becomes of one model in each mode."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    try:
        model, data = build()
        vary_weights(model)
        data, calls = reference(model, data)
    except Exception as error:
        yield {"mode": "build", "raised": described(error)}
        return
    yield timed("plan without data", lambda: planned(model))
    for mode in modes.split():
        yield timed(f"plan {mode}", partial(planned, model, like=data, joins=mode))
    if calls:
        yield timed("capture all", partial(compare, model, data, calls))


def timed(mode: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        result = work()
    except LayertapError as error:
        result = {"error": described(error)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        result = {"raised": f"{described(error)} ({place})"}
    return {"mode": mode, **result, "seconds": round(time.perf_counter() - began, 1)}


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"


def stop(*_: Any) -> None:
    raise TimeoutError("it took too long")


def summary(lines: list[dict[str, Any]]) -> bool:
    """Prints what became of all models, and returns whether nothing is wrong."""
    print(f"== on {BACKEND}: {len({line['model'] for line in lines})} models")
    totals: Counter[str] = Counter()
    wrong = []
    for line in lines:
        numbers = {k: n for k, n in line.items() if isinstance(n, int)}
        totals.update(numbers | {"different": len(line.get("different", ()))})
        totals[f"{line['mode']}: refused as a whole"] += "error" in line
        if line.get("different") or "raised" in line:
            wrong.append(line)
    print(", ".join(f"{name}: {n}" for name, n in totals.items() if n))
    for line in wrong:
        print(line["model"], line["mode"], line.get("raised", line.get("different")))
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a checkout of keras-hub")
    parser.add_argument("results", type=Path, help="JSON lines; models in it are left")
    parser.add_argument("--only", default="", help="of models, as a regular expression")
    parser.add_argument("--modes", default="concatenate * all", help="of plans")
    parser.add_argument("--seconds", default=200, type=int, help="for one model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, stop)
    done = options.results.read_text() if options.results.exists() else ""
    for name, build in [*backbones(options.source), *applications()]:
        if not re.search(options.only, name) or f'"{name}"' in done:
            continue
        signal.alarm(options.seconds)
        for result in attempt(build, options.modes):
            line = {"backend": BACKEND, "model": name, **result}
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
        signal.alarm(0)
    lines = options.results.read_text().splitlines()
    sys.exit(not summary(list(map(json.loads, lines))))


if __name__ == "__main__":
    main()
