"""The command: measures, and writes a JSON, tables and charts."""

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
from pathlib import Path

from benchmarks.report import write
from benchmarks.running import BACKENDS, PEERS, QUICK, ROOT, Suite
from benchmarks.works import WORKS

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
    parser.add_argument("--works", nargs="+", choices=WORKS)
    parser.add_argument("--json", type=Path, required=True, help="where results go")
    parser.add_argument("--report", type=Path, help="a folder for tables and charts")
    parser.add_argument("--only-report", action="store_true", help="of that JSON")
    parser.add_argument("--note", help="what else is to be known of the run")
    given = parser.parse_args()
    before = given.json.read_text() if given.only_report else ""
    found = json.loads(before) if given.only_report else measured(given)
    if given.note is not None:
        found["note"] = given.note
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.report is not None:
        write(found, given.report)


def measured(given: argparse.Namespace) -> dict[str, object]:
    """Measures, and returns all of it."""
    pythons = {peer: ROOT / f".venv-{peer}/bin/python" for peer in PEERS}
    there = {peer: python for peer, python in pythons.items() if python.exists()}
    with tempfile.TemporaryDirectory(dir=given.json.parent) as folder:
        suite = Suite(Path(folder), given.quick, there)
        works = {
            name: {backend: suite.work(name, backend) for backend in given.backends}
            for name in given.works or (QUICK if given.quick else WORKS)
        }
        first = {backend: suite.first_calls(backend) for backend in given.backends}
        peaks = {backend: suite.peaks(backend) for backend in given.backends}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "quick": given.quick,
        "machine": machine(),
        "peers": sorted(there),
        "works": works,
        "first": first,
        "peaks": peaks,
    }


if __name__ == "__main__":
    main()
