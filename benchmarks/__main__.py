"""The command: measures, and writes a JSON, tables and charts.

Parts can be measured by themselves, and put into a JSON in place of earlier figures.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages, results_file
from benchmarks.report import write
from benchmarks.running import BACKENDS, PEERS, QUICK, ROOT, Suite
from benchmarks.works import WORKS

Found = dict[str, Any]

PARTS = ("works", "calls", "effects", "epochs", "training", "first", "peaks", "pages")
_PACKAGES = ("keras", "tensorflow-cpu", "jax", "torch", "numpy", "h5py", "zstandard")


def machine() -> dict[str, str]:
    """Returns what this machine is, and what runs on it."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{os.cpu_count()} of {cpus[0] if cpus else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="for shape and sanity only"
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument(
        "--works", nargs="+", choices=WORKS, help="only these, if that JSON is there"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="put into that JSON, which is there"
    )
    parser.add_argument("--json", type=Path, required=True, help="where results go")
    parser.add_argument("--report", type=Path, help="a folder for tables and charts")
    parser.add_argument("--only-report", action="store_true", help="of that JSON")
    parser.add_argument("--note", help="what else is to be known of the run")
    given = parser.parse_args()
    there = json.loads(given.json.read_text()) if given.json.exists() else None
    if given.works and there and not given.only:
        given.only = ["works"]
    if there is None and (given.only or given.only_report):
        parser.error(f"{given.json} is not there")
    if given.only and (there["machine"], there["quick"]) != (machine(), given.quick):
        parser.error(f"{given.json} is of another machine, or of another kind of run")
    if given.only_report:
        found = there
    elif given.only:
        found = put(there, measured(given, given.only))
    else:
        found = measured(given, PARTS)
    if given.note is not None:
        found["note"] = given.note
    results_file.write(found, given.json)
    if given.report is not None:
        write(found, given.report)


def put(found: Found, newer: Found) -> Found:
    """Puts parts in the place of those of an earlier run, with their date.

    Args:
        found: What was measured before.
        newer: What was measured now.

    Returns:
        All of it.
    """
    parts = {part: newer[part] for part in PARTS[1:] if part in newer}
    for part, by_backend in (newer.get("works", {}) | parts).items():
        into = found if part in parts else found["works"]
        into.setdefault(part, {}).update(by_backend)
        dates = dict.fromkeys(by_backend, newer["date"])
        found.setdefault("later", {}).setdefault(part, {}).update(dates)
    return found


def measured(given: argparse.Namespace, parts: Sequence[str]) -> Found:
    """Measures some parts, and returns all of it."""
    pythons = {peer: ROOT / f".venv-{peer}/bin/python" for peer in PEERS}
    there = {peer: python for peer, python in pythons.items() if python.exists()}
    with tempfile.TemporaryDirectory(dir=given.json.parent) as folder:
        suite = Suite(Path(folder), given.quick, there)
        ways = {
            "calls": suite.calls,
            "effects": suite.effects,
            "epochs": suite.epochs,
            "training": suite.training,
            "first": suite.first_calls,
            "peaks": suite.peaks,
            "pages": suite.pages,
        }
        found: Found = {}
        if "works" in parts:
            found["works"] = {
                name: {backend: suite.work(name, backend) for backend in given.backends}
                for name in given.works or (QUICK if given.quick else WORKS)
            }
        for part in PARTS[1:]:
            # A page is the same on every backend.
            backends = (pages.BACKEND,) if part == "pages" else given.backends
            if part in parts:
                found[part] = {backend: ways[part](backend) for backend in backends}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "quick": given.quick,
        "machine": machine(),
        "peers": sorted(there),
        **found,
    }


if __name__ == "__main__":
    main()
