"""Shared parts of the commands: options, and errors of one line in their words."""

import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

WRONG, BAD_INPUT, PARTIAL, INTERRUPTED = 1, 2, 3, 130

DATA_HELP = """\b
DATA is one of
  a .npy file               the rows of a model with one input
  a .npz file               one array for each input, by its name; `labels`,
                            `sample_weight` and `ids` are saved along, or the
                            arrays that --labels and --ids name
  a Zarr array or group     version 2 or 3, a folder or a URL (s3://...);
                            a group has the same names as a .npz
  a .parquet file           or a folder of them, also at s3://...: one column
                            for each input; lists of one length are arrays;
                            folders such as year=2020 are columns
  a folder of images        resized to the model's input; the paths are ids;
                            sub-folders are labels; from 0 to 255, unless
                            --preprocess is passed
  package.module:callable   returns data that layertap.save accepts
"""


class Commands(click.Group):
    """Commands that report a usage error in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            message = error.format_message().removesuffix(".")
            fail(f"{message}. See `{command} --help`.")


class Command(click.Command):
    """A command that reports an error in one line."""

    stopped = ""

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


def line_of(error: Exception) -> str:
    """Returns the message of an error as one line, in the words of the command line."""
    from layertap.errors import LayertapError

    message = str(error)
    for note in notes_of(error):
        message = f"{message.removesuffix('.')}. {note}"
    message = " ".join(message.split())
    if isinstance(error, LayertapError):
        return in_command_words(message)
    return f"{type(error).__name__}: {message} (--verbose shows where)"


def notes_of(error: BaseException) -> list[str]:
    """Returns the notes that were added to an error."""
    return getattr(error, "__notes__", [])


# Arguments of Python that have an option.
_NAMES = (
    "before|outputs|joins|for_head|dtype|reduce|batch_size|pad|compression|overwrite"
    "|memory|inputs"
    "|rows|loss|metrics|repeats|seed|workers|num_gpus|labels|ids|preprocess|skip_bad"
    "|pairs|branches|addresses|gradients|attributions|baseline|steps"
)
_OPTION = re.compile(
    rf"`(?P<bare>{_NAMES})`|`?\b(?P<name>{_NAMES})="
    r"(?P<value>True\b|\d+|'[^']*'|\"[^\"]*\"|…)?(?!\w)`?"
)
# Calls of Python that have a command.
_CALL = re.compile(
    r"\b(?:layertap\.)?(?:plan\(model, like=x\)"
    r"|save\(model, (?:data|(?P<labels>\(x, y\))), path(?P<options>[^()]*)\))"
)
_SINGULAR = {"metrics": "metric", "pairs": "pair", "addresses": "address"}


def in_command_words(message: str) -> str:
    """Replaces arguments and calls of Python by options and commands.

    Example:
    >>> in_command_words("Pass `batch_size=`, pad=True or before='fusion'.")
    "Pass --batch-size, --pad longest or --before 'fusion'."
    >>> in_command_words("Save again: save(model, data, path, for_head=True).")
    'Save again: layertap save MODEL DATA -o STORE --for-head.'
    """

    def option(match: re.Match[str]) -> str:
        name, value = match["bare"] or match["name"], match["value"]
        value = "longest" if (name, value) == ("pad", "True") else value
        words = "--" + _SINGULAR.get(name, name).replace("_", "-")
        return words if value in (None, "True") else f"{words} {value}"

    def call(match: re.Match[str]) -> str:
        options = (match["options"] or "").replace(",", "")
        labels = ", with labels in DATA" if match["labels"] else ""
        return f"layertap save MODEL DATA -o STORE{options}{labels}"

    return _OPTION.sub(option, _CALL.sub(call, message))


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
progress = flag("--progress", "Print progress in logs, too, not on terminals only.")

reduce = one(
    "--reduce",
    "avg|max|flatten|MODULE:CALLABLE",
    "Store the average or the maximum of each channel, all numbers flat, or what a "
    "function returns that keeps the rows.",
)

targets = _group(
    one(
        "--gradients",
        "loss|INDEX|MODULE:CALLABLE",
        "Save the gradients of this number of each row: the loss, an output, or what "
        "a function of the outputs returns.",
    ),
    one(
        "--attributions",
        "loss|INDEX|MODULE:CALLABLE",
        "Save each value's part in this number: integrated gradients.",
    ),
)

line = _group(
    click.option(
        "--baseline",
        type=click.Choice(["zero", "mean"]),
        help="With --attributions: where they begin; by default zero.",
    ),
    number("--steps", 1, "With --attributions: how many; by default what it takes."),
)

model = _group(
    several(
        "--import", "MODULE", "Import this module first: it registers custom objects."
    ),
    flag(
        "--trust-model",
        "Run code that the model file holds (turns Keras' safe mode off).",
    ),
    verbose,
)

data = _group(
    one("--labels", "COLUMN", "The column of the labels in DATA."),
    one("--ids", "COLUMN", "The column of the ids in DATA."),
    one(
        "--preprocess",
        "PACKAGE.MODULE:CALLABLE",
        "What the model needs done to images, such as "
        "keras.applications.inception_v3:preprocess_input.",
    ),
    flag("--skip-bad", "Leave out images that can't be decoded, and name them."),
)

selection = _group(
    several("--before", "GLOB", "Joins whose branches are saved; by default all."),
    several("--outputs", "GLOB", "Operations whose outputs are saved."),
    several(
        "--joins",
        "KIND",
        "Kinds of join: add, multiply, attention, ...; '*' for all of them.",
        default=["concatenate"],
        show_default=True,
    ),
    flag(
        "--for-head", "Save all that a head needs: also values that run past the joins."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float16", "bfloat16"]),
        help="Store floating numbers as this dtype; by default as they are.",
    ),
    reduce,
)

ray = _group(
    one(
        "--ray",
        "[ADDRESS]",
        "Save with many workers on Ray: on the cluster at ADDRESS, by default at "
        "RAY_ADDRESS, else on this machine.",
        is_flag=False,
        flag_value="",
    ),
    number("--workers", 1, "With --ray: how many; by default one a CPU or GPU."),
    one(
        "--num-gpus",
        "N",
        "With --ray: GPUs of each worker; by default 0.",
        type=click.FloatRange(min=0),
        default=0,
    ),
)
