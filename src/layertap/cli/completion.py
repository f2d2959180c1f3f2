"""Completes words at the shell's prompt: names in a store or a plan, and folders.

Nothing here imports Keras or reads a bucket: a prompt waits for it.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import xxhash
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

import layertap

if TYPE_CHECKING:
    from layertap.core.plan.plan import Plan

JOINS = (
    *("concatenate", "add", "subtract", "multiply", "average", "maximum", "minimum"),
    *("dot", "stack", "attention"),
)
# The plans that are kept, of the model files that were planned last.
_MOST_PLANS = 50
# The parameters of commands that hold the path of a store.
_STORES = ("store", "output", "a", "b")

_Complete = Callable[[click.Context, click.Parameter, str], list[str]]


class Folder(click.Path):
    """The path of a store: folders are completed. It may be in a bucket."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Has the shell complete folders."""
        return [CompletionItem(incomplete, type="dir")]


class _Bash(BashComplete):
    """Bash's part, where a word such as `encoder@2/mixed3` is one word."""

    source_template = (
        BashComplete.source_template + "\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//@/}\n"
    )


add_completion_class(_Bash)


def complete_words(command: click.Command, args: list[str]) -> list[str]:
    """Returns the words before an option whose values are being completed.

    Click would ignore all words where an option lacks its values.
    """
    for option in command.params:
        last = args[-option.nargs :] if option.nargs > 0 else []
        for position, word in enumerate(last, len(args) - len(last)):
            if isinstance(option, click.Option) and word in option.opts:
                return args[:position]
    return args


def words(*known: str) -> _Complete:
    """Returns a completion of words that are always the same."""
    return lambda ctx, param, incomplete: _matching(known, incomplete)


def names(of: "Callable[[Plan], Iterable[str]]") -> _Complete:
    """Returns a completion of names in the stores and the model typed before."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[str]:
        known: list[str] = []
        for path in map(ctx.params.get, _STORES):
            # Whatever a store or a file holds, a prompt shows no error.
            with suppress(Exception):
                if path and Path(path).is_dir():
                    known += of(layertap.open(path).plan)
        with suppress(Exception):
            known += of(_remembered(ctx.params["model"]))
        return _matching(known, incomplete)

    return complete


def remember(model: str, plan: "Plan") -> None:
    """Keeps the plan of a model file in the user's cache, to complete its names."""
    # Completion is a convenience: a machine without a home still shows the plan.
    with suppress(OSError, RuntimeError):
        file = _file_of(model)
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(plan.to_json()), "utf-8")
        new.replace(file)
        others = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for old in others[:-_MOST_PLANS]:
            old.unlink()


def _remembered(model: str) -> "Plan":
    """Returns the plan that was made last of a model file that is unchanged."""
    from layertap.core.plan.plan import Plan

    return Plan.from_json(json.loads(_file_of(model).read_text("utf-8")))


def _file_of(model: str) -> Path:
    """Returns the file of the plan of a model file, as the latter is now."""
    path = Path(model).resolve(strict=True)
    status = path.stat()
    version = f"{path}\0{status.st_mtime_ns}\0{status.st_size}"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"{xxhash.xxh3_64_hexdigest(os.fsencode(version))}.json"
    return Path(cache, "layertap", "plans", name)


def _matching(known: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(known) if name.startswith(incomplete)]


joins = names(lambda plan: [join.path for join in plan.joins])
outputs = names(lambda plan: [output.made_by for output in plan.outputs])
addresses = names(lambda plan: plan.known)
branches = names(
    lambda plan: [
        name
        for join in plan.joins
        for branch in join.branches
        for name in (branch.address, branch.made_by)
    ]
)
paths = names(
    lambda plan: [
        *(join.path for join in plan.joins),
        *(output.made_by for output in plan.outputs),
        *plan.known,
    ]
)
