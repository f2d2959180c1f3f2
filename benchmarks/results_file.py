"""Writes the JSON of a run of the suite: the figures that the page shows, no others."""

import json
from pathlib import Path
from typing import Any

# The measurements of one call that tables, charts, targets and tests read.
_SHOWN = ("wall", "after", "after_cpu", "bytes", "files", "error")
# Dictionaries below this depth stand on one line.
_NESTED = 2


def write(results: dict[str, Any], file: Path) -> None:
    """Writes results, a line for each work and backend."""
    shown = results | {
        "works": {
            work: {backend: _work(one) for backend, one in by_backend.items()}
            for work, by_backend in results.get("works", {}).items()
        },
        "first": _calls(results.get("first", {}), ("wall", "error")),
        "peaks": _calls(results.get("peaks", {}), ("peak", "again", "error")),
        "training": _calls(results.get("training", {}), ("seconds", "loss")),
    }
    shown = {key: value for key, value in shown.items() if value != {}}
    file.write_text(_lines(_rounded(shown), 0) + "\n")


def _work(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"ways": _calls(one["ways"], _SHOWN)}


def _calls(results: Any, shown: tuple[str, ...]) -> Any:
    """Returns results whose innermost dictionaries have the shown keys alone."""
    if isinstance(results, list):
        return [_calls(one, shown) for one in results]
    if not any(isinstance(value, dict | list) for value in results.values()):
        return {key: results[key] for key in shown if key in results}
    return {key: _calls(value, shown) for key, value in results.items()}


def _rounded(results: Any) -> Any:
    """Returns results with five significant digits: no table shows more."""
    if isinstance(results, dict):
        return {key: _rounded(value) for key, value in results.items()}
    if isinstance(results, list):
        return [_rounded(value) for value in results]
    return float(f"{results:.5g}") if isinstance(results, float) else results


def _lines(results: Any, depth: int) -> str:
    if depth > _NESTED or not isinstance(results, dict):
        return json.dumps(results)
    inner = (
        f"{' ' * (depth + 1)}{json.dumps(key)}: {_lines(value, depth + 1)}"
        for key, value in results.items()
    )
    return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"
