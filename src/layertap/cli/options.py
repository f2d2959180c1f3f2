"""Shared parts of the commands: options, and errors of one line."""

import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from layertap.cli import completion
from layertap.cli.help import HelpTexts
from layertap.cli.wording import line_of, notes_of

WRONG, BAD_INPUT, PARTIAL, INTERRUPTED = 1, 2, 3, 130


_ORDER = (
    *("demo", "plan", "save", "show", "verify", "importance", "diff", "export"),
    *("report", "clean"),
)


class Commands(HelpTexts, click.Group):
    """Commands that report a usage error in one line."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Writes the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Lists the commands in the order in which they are used."""
        return sorted(self.commands, key=_ORDER.index)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words before the name of a command."""
        if not args or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _fail_usage(error, ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            _fail_usage(error, ctx)


def _fail_usage(error: click.UsageError, ctx: click.Context) -> NoReturn:
    """Ends the process with one line about a wrong use of a command."""
    message = error.format_message().removesuffix(".")
    stop = "" if message.endswith("?") else "."
    fail(f"{message}{stop} See `{(error.ctx or ctx).command_path} --help`.")


class Command(HelpTexts):
    """A command that reports an error in one line."""

    stopped = ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words after the name of the command."""
        if ctx.resilient_parsing:
            args = completion.complete_words(self, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        from layertap.errors import PartialWarning

        # The last line of the command names the missing values.
        warnings.simplefilter("ignore", PartialWarning)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            self._say_stopped(error)
            sys.exit(INTERRUPTED)
        except SystemExit as error:
            # SIGTERM, during a save.
            if error.code == 128 + signal.SIGTERM:
                self._say_stopped(error)
            raise
        except Exception as error:
            if ctx.params.get("verbose"):
                traceback.print_exc()
            fail(line_of(error))

    def _say_stopped(self, error: BaseException) -> None:
        """Says that the command was stopped, and which rows are safe."""
        notes = [note.removeprefix("layertap: ") for note in notes_of(error)]
        line = " ".join(notes).replace("same call", "same command") or self.stopped
        click.echo(f"Stopped. {line}".rstrip(), err=True)


class Resumable(Command):
    """A command that resumes if it is repeated after it was stopped."""

    stopped = "Committed rows stay. Repeat the same command to resume."


def fail(line: str, status: int = BAD_INPUT) -> NoReturn:
    """Ends the process with one line on standard error."""
    click.echo(f"Error: {line}", err=True)
    sys.exit(status)


def pad_size(text: Any) -> bool | int:
    """Returns a size to pad to: an integer, or True for the longest."""
    return text == "longest" or click.IntRange(min=1).convert(text, None, None)


def amount(text: Any) -> int:
    """Returns a number of bytes: `1000000`, or with a unit, `2 GB` or `512MiB`."""
    words = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", str(text).lower())
    size = 0
    if words is not None:
        number, unit, binary = words.groups()
        size = int(
            float(number) * (1024 if binary else 1000) ** " kmgt".index(unit or " ")
        )
    if size < 1:
        raise click.BadParameter(
            f"{text!r} is not an amount of memory; expected bytes, or a unit, as 2GB."
        )
    return size


def row_range(text: str) -> slice:
    """Returns rows such as `100:200` as a slice."""
    start, colon, stop = text.partition(":")
    if not colon or not all(part.isdigit() for part in (start, stop) if part):
        raise click.BadParameter(
            f"{text!r} is not a range; expected START:STOP, as 100:200."
        )
    return slice(int(start) if start else None, int(stop) if stop else None)


def one(name: str, kind: str, text: str, **settings: Any) -> Any:
    """Returns an option with a value."""
    return click.option(name, metavar=kind, help=text, **settings)


def number(name: str, least: int, text: str, **settings: Any) -> Any:
    """Returns an option for an integer from `least` on."""
    return one(name, "N", text, type=click.IntRange(min=least), **settings)


def several(name: str, kind: str, text: str, **settings: Any) -> Any:
    """Returns an option that can be passed several times."""
    return one(name, kind, text, multiple=True, **settings)


def flag(name: str, text: str) -> Any:
    """Returns an option without a value."""
    return click.option(name, is_flag=True, help=text)


def _group(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a decorator that adds several options to a command."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


verbose = flag("--verbose", "Show the backend's messages, and tracebacks.")
json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet = flag("--quiet", "Show no progress.")
progress = flag("--progress", "Print progress in logs, too.")

store = click.argument("store", type=completion.Folder())
model_file = click.argument("model", type=click.Path())

reduce = one(
    "--reduce",
    "HOW",
    "avg or max per channel, flatten, or CALLABLE.",
    shell_complete=completion.words("avg", "max", "flatten"),
)

targets = _group(
    one(
        "--gradients",
        "OF",
        "Save the gradients of OF, too.",
        shell_complete=completion.words("loss"),
    ),
    one(
        "--attributions",
        "OF",
        "Save how much each value adds to OF, too.",
        shell_complete=completion.words("loss"),
    ),
)

functions = _group(
    one("--reduce", "CALLABLE", "The function passed to save, if any."),
    one("--gradients", "CALLABLE", "The same for gradients."),
    one("--attributions", "CALLABLE", "The same for attributions."),
)

line = _group(
    click.option(
        "--baseline",
        type=click.Choice(["zero", "mean"]),
        help="Start of the attributions; by default zero.",
    ),
    number("--steps", 1, "Attribution steps; by default as needed."),
)

model = _group(
    several("--import", "MODULE", "Import it first, for custom objects."),
    flag("--trust-model", "Run code in the model file (no safe mode)."),
    verbose,
)

data = _group(
    one("--labels", "COLUMN", "The column of the labels in DATA."),
    one("--ids", "COLUMN", "The column of the ids in DATA."),
    one(
        "--preprocess",
        "CALLABLE",
        "Preprocesses images for the model.",
    ),
    flag("--skip-bad", "Leave out images that can't be decoded."),
)

selection = _group(
    several(
        "--before",
        "GLOB",
        "Joins whose branches are saved; by default all.",
        shell_complete=completion.joins,
    ),
    several(
        "--outputs",
        "GLOB",
        "Operations whose outputs are saved.",
        shell_complete=completion.outputs,
    ),
    several(
        "--joins",
        "KIND",
        "Kinds of join, or '*'; by default concatenate.",
        default=["concatenate"],
        shell_complete=completion.words(*completion.JOINS, "all"),
    ),
    flag("--for-head", "Also save tensors that bypass the joins."),
    click.option(
        "--dtype",
        type=click.Choice(["float16", "bfloat16"]),
        help="Store floating numbers in this dtype.",
    ),
    reduce,
)

ray = _group(
    one(
        "--ray",
        "[ADDRESS]",
        "Use Ray at ADDRESS, RAY_ADDRESS, or here.",
        is_flag=False,
        flag_value="",
    ),
    number("--workers", 1, "Workers; by default one per CPU or GPU."),
    one(
        "--num-gpus",
        "N",
        "GPUs of each worker; by default 0.",
        type=click.FloatRange(min=0),
        default=0,
    ),
)
