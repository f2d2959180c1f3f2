"""A store as a stranger could send it: with right digests, and wrong in any way."""

import json
import operator
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import click.testing
import numpy as np

import layertap
from layertap import cli
from layertap.core import text
from layertap.core.plan import Branch, Ignored, Join, Output, Plan, Recipe, Refused
from layertap.errors import LayertapError
from layertap.results.statistics.gather import Gatherer
from layertap.store.format import digests
from layertap.store.format.layout import ArraySpec
from layertap.store.format.metadata import read_layouts
from layertap.store.format.root import read_root
from layertap.store.format.zarr_json import group_metadata
from layertap.store.storage.files import LocalStorage
from layertap.store.writing.writer import Writer
from tests.support import forks

ROWS, BLOCK_ROWS = 11, 4
PLAN = Plan(
    "honest",
    (
        Join(
            *("fusion", "concatenate", 1, (None, 6), "float16"),
            (
                Branch("fusion/in/0", "left", (None, 4), "float16"),
                Branch("fusion/in/1", "right", (None, 2), "float16"),
            ),
        ),
        Join(
            *("outer", "concatenate", 1, (None, 10), "float16"),
            (
                Branch("outer/in/0", "fusion", (None, 6), "float16", "fusion/out"),
                Branch("outer/in/1", "left", (None, 4), "float16", "fusion/in/0"),
            ),
        ),
    ),
    (Output("words/out", "words", (None, 3, 2), "int32"),),
    (Refused("cell/in/0", "it is computed inside a loop"),),
    {
        "outer/in/0": Recipe(("fusion/in/0", "fusion/in/1"), 1),
        "outer/in/1": Recipe(("fusion/in/0",)),
    },
    dtype="float16",
    reduce="max",
    narrowed={"fusion/in/0": "float32", "fusion/in/1": "float32"},
    padded={"words/out": (1,)},
    ignored=(Ignored("tf.concat", "concatenate", "it is of booleans: a mask"),),
)
IDENTITY = {
    "configuration": "0123456789abcdef",
    "batch size": 4,
    "backend": "jax",
    "labels": {"digit": "labels/digit", "more": ["labels/more/0", ["labels/more/1"]]},
    "ids": "text",
}
AUXILIARY = {
    "overflowed": ((2,), "int32"),
    "lengths": ((1,), "int32"),
    "labels/digit": ((), "int64"),
    "labels/more/0": ((2,), "float32"),
    "labels/more/1": ((), "bool"),
    "ids": ((6,), "uint8"),
    "digests": ((), "uint64"),
}


def make(path, *, complete=True, plan=PLAN, auxiliary=None, values=None, **options):
    """Saves a few rows of a model that does not exist.

    Args:
        path: The path of the store.
        complete: Whether the store is completed.
        plan: The plan.
        auxiliary: The shapes and dtypes of the arrays that are not in the plan.
        values: By array, its values. Others are ones.
        options: Other options of `Writer.create`.
    """
    arrays = [
        ArraySpec(value.address, value.shape[1:], value.dtype, {"made_by": "x"})
        for value in plan.stored
    ]
    arrays += [
        ArraySpec(name, *form) for name, form in (auxiliary or AUXILIARY).items()
    ]
    row = sum(array.row_bytes for array in arrays)
    manifest = {"identity": IDENTITY, "plan": plan.to_json()}
    gatherer = Gatherer(plan)
    options = {"memory": 3 * BLOCK_ROWS * row, "observer": gatherer.add, **options}
    with Writer.create(path, arrays, manifest, **options) as writer:
        ids = text.encode([f"row-{i:02}" for i in range(ROWS)])
        rows = {
            array.path: np.ones((ROWS, *array.shape), array.dtype) for array in arrays
        }
        writer.append(rows | {"ids": ids} | (values or {}))
        if complete:
            writer.finish(lambda: {"statistics": gatherer.to_json()})
        else:
            writer.commit()


class Store:
    """A store whose files are changed and restored."""

    def __init__(self, path):
        self.path = Path(path)
        self.files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }
        storage = LocalStorage(self.path)
        layouts = read_layouts(storage, read_root(storage))
        self.layouts = {layout.spec.path: layout for layout in layouts}
        self.changed = set()

    @property
    def manifests(self):
        return [name for name in self.files if name.endswith("zarr.json")]

    @property
    def shards(self):
        return [name for name in self.files if not name.endswith("zarr.json")]

    def ours(self):
        """Returns layertap's attributes of the root, without their digest."""
        ours = json.loads(self.files["zarr.json"])["attributes"]["layertap"]
        del ours["seal"]
        return ours

    def metadata(self, array):
        return json.loads(self.files[f"{array}/zarr.json"])

    def layout(self, array):
        return self.layouts[array]

    def put(self, name, content):
        self.changed.add(name)
        (self.path / name).write_bytes(content)

    def put_root(self, ours):
        """Writes attributes of the root, with their digest."""
        sealed = ours | {"seal": digests.digest_json(ours)}
        self.put("zarr.json", as_json(group_metadata({"layertap": sealed})))

    def put_metadata(self, array, metadata):
        """Writes the metadata of an array, with their digest if they can have one."""
        said = {key: metadata[key] for key in metadata if key != "attributes"}
        attributes = metadata.get("attributes")
        if isinstance(attributes, dict) and isinstance(
            attributes.get("layertap"), dict
        ):
            ours = {k: v for k, v in attributes["layertap"].items() if k != "seal"}
            sealed = [self.ours()["store"], array, said, ours]
            ours["seal"] = digests.digest_json(sealed)
            metadata = metadata | {"attributes": attributes | {"layertap": ours}}
        self.put(f"{array}/zarr.json", as_json(metadata))

    def claim(self, array, **claimed):
        """Writes the metadata of an array with other sizes than it has."""
        layout = self.layout(array)
        spec = {
            key: claimed.pop(key)
            for key in ("shape", "dtype", "attributes")
            if key in claimed
        }
        layout = replace(layout, spec=replace(layout.spec, **spec), **claimed)
        self.put(f"{array}/zarr.json", as_json(layout.metadata()))

    def reset(self):
        """Restores all files, also after some were deleted or added."""
        shutil.rmtree(self.path, ignore_errors=True)
        for name, content in self.files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(content)
        self.changed.clear()

    def restore(self):
        for name in self.changed:
            (self.path / name).write_bytes(self.files[name])
        self.changed.clear()


def as_json(content):
    """Returns JSON, also of values that layertap does not write."""
    return json.dumps(content).encode()


def use(path, *, without=()):
    """Does everything that a user can do with a store; catches layertap's errors.

    Args:
        path: The folder of the store.
        without: The names of actions that are left out.

    Returns:
        The names of the actions that failed.
    """
    failed = set()

    def tried(name, action):
        try:
            return action()
        except LayertapError:
            failed.add(name)
            return None

    saved = tried("open", lambda: layertap.open(path))
    if saved is not None:
        for name, action in uses(saved).items():
            if name not in without:
                tried(name, action)
    return failed | commands(path, [c for c in COMMANDS if c[0] not in without])


def use_alone(path, *, verify=True, gib=3, seconds=40):
    """Does the same in a process of its own, with limits of memory and time.

    Returns:
        The names of the actions that failed.
    """
    return set(forks.shared(_ALONE).call("alone", str(path), verify, gib, seconds))


_ALONE = """
from tests.support import hostile
import layertap.analysis.verify

def alone(path, verify, gib, seconds):
    hostile.limit(gib, seconds)
    return sorted(hostile.use(path, without=[] if verify else ["verify", "diff"]))
"""


def limit(gib, seconds):
    """Limits the memory and the time of this process from now on."""
    with open("/proc/self/statm") as opened:  # noqa: PTH123
        taken = int(opened.read().split()[0]) * resource.getpagesize()
    most = taken + gib * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds))


def uses(saved):
    """Returns the actions on an opened store, by name."""
    index = min(saved.rows, 1)
    return {
        "rows": lambda: (saved.rows, saved.complete, len(saved)),
        "repr": lambda: (repr(saved), saved._repr_html_(), repr(list(saved.items()))),
        "plan": lambda: (str(saved.plan), saved.plan._repr_html_(), repr(saved.plan)),
        "to_json": lambda: json.dumps(saved.to_json()),
        "sizes": lambda: (saved.reader.sizes(), saved.bytes_on_disk),
        "groups": saved.reader.check_groups,
        "ids": lambda: saved.ids,
        "labels": lambda: each(saved.labels, operator.itemgetter(slice(None, 3))),
        "overflowed": lambda: saved.overflowed,
        "statistics": lambda: of_statistics(saved.statistics),
        **{f"lengths of {a}": lambda a=a: saved.lengths(a) for a in saved},
        **{f"3 of {a}": lambda a=a: saved[a][:3] for a in saved},
        **{f"one of {a}": lambda a=a: first_number(saved[a]) for a in saved},
        **{f"last of {a}": lambda a=a: saved[a][-index:] for a in saved},
        **{f"every 4th of {a}": lambda a=a: saved[a][: 2**20 : 4] for a in saved},
        **{f"before {j.path}": lambda j=j: of_join(saved, j) for j in saved.plan.joins},
        "batch": lambda: of_batch(next(saved.batches(2), None)),
        "shuffled": lambda: of_batch(next(saved.batches(2, shuffle=True), None)),
        "no value": lambda: saved["no value"],
        "no join": lambda: saved.before("no join"),
        "verify": lambda: of_report(layertap.verify(saved)),
        "diff": lambda: of_report(layertap.diff(saved, saved)),
    }


def first_number(array):
    return array[(slice(0, 1), *[0] * (array.ndim - 1))]


def of_join(saved, join):
    return [branch[:1] for branch in saved.before(join.path).values()]


def of_batch(batch):
    """Reads all values of a batch; missing ones raise errors of layertap."""
    if batch is not None:
        repr(batch)
        batch._repr_html_()
        batch.overflowed  # noqa: B018
        for name in batch:
            for action in (batch.__getitem__, batch.lengths):
                try:
                    action(name)
                except LayertapError:
                    continue


def of_statistics(statistics):
    return [(known.total, known.dead, known.to_json()) for known in statistics.values()]


def of_report(report):
    return str(report), report._repr_html_(), json.dumps(report.to_json())


def each(structure, function):
    if isinstance(structure, dict):
        return {key: each(value, function) for key, value in structure.items()}
    if isinstance(structure, list):
        return [each(value, function) for value in structure]
    return None if structure is None else function(structure)


COMMANDS = (["show"], ["show", "--json"], ["verify"], ["verify", "--json"])


def commands(path, wanted=COMMANDS):
    """Runs commands on a store; they may fail, but only with errors of layertap."""
    failed = set()
    for words in wanted:
        done = click.testing.CliRunner().invoke(cli.main, [*words, str(path)])
        # `options.line_of` adds this to other errors than layertap's.
        if done.exit_code not in (0, 1, 2, 3) or "--verbose shows where" in done.output:
            raise AssertionError(f"{words}: {done.output}") from done.exception
        # A plan may say that values are missing: 3.
        if done.exit_code in (1, 2):
            failed.add(" ".join(words))
    return failed
