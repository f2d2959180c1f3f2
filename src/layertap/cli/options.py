"""What the commands have in common: their options, and errors that are one line."""

import re
import sys
import traceback
from typing import Any, NoReturn

import click

WRONG, BAD_INPUT, INTERRUPTED = 1, 2, 130

DATA_HELP = """\b
DATA is one of
  a .npy file               the rows of a model with one input
  a .npz file               one array for each input, by its name; arrays
                            called `labels`, `sample_weight` and `ids` are
                            saved along
  a Zarr array or group     version 2 or 3, a folder or a URL (s3://...);
                            a group is what a .npz is
  a .parquet file           or a folder of them: one column for each input;
                            lists of one length are arrays
  a folder of images        resized to the model's input; the paths are ids
  package.module:callable   returns anything that layertap.save takes
"""


class Commands(click.Group):
    """Commands of which a wrong word is told in one line, too."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            told = error.format_message().removesuffix(".")
            fail(f"{told}. See `{command} --help`.")


class Command(click.Command):
    """A command whose errors are one clear line."""

    stopped = ""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("Stopped." + self.stopped, err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params.get("verbose"):
                traceback.print_exc()
            fail(line_of(error))


class Resumable(Command):
    """A command that goes on where it was stopped."""

    stopped = " Rows that were committed stay; the same command goes on after them."


def line_of(error: Exception) -> str:
    """Returns what an error says, in one line and in the words of the command line."""
    from layertap.errors import LayertapError

    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())
    if not isinstance(error, LayertapError):
        return f"{type(error).__name__}: {text} (--verbose shows where)"
    text = re.sub(r"\bpad=(\d+|True)", r"--pad \1", text)
    text = text.replace("--pad True", "--pad longest")
    return re.sub(
        r'\b(before|outputs|joins|overwrite|for_head|loss)=(?:True)?(")?',
        lambda found: f"--{found[1].replace('_', '-')}" + (' "' if found[2] else ""),
        text,
    )


def fail(line: str, status: int = BAD_INPUT) -> NoReturn:
    """Ends the process with one line on standard error."""
    click.echo(f"Error: {line}", err=True)
    sys.exit(status)


def model_options(command: Any) -> Any:
    """Adds the options of commands that load a model."""
    options = [
        click.option(
            "--import",
            "modules",
            multiple=True,
            metavar="MODULE",
            help="Import this first: it registers custom objects.",
        ),
        click.option(
            "--trust-model",
            is_flag=True,
            help="Run code that the model file holds (turns Keras' safe mode off).",
        ),
        verbose_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def selection(command: Any) -> Any:
    """Adds the options that say what of a model is taken."""
    options = [
        click.option(
            "--before",
            multiple=True,
            metavar="GLOB",
            help="Joins to take the branches of; all, if nothing is asked for.",
        ),
        click.option(
            "--outputs",
            multiple=True,
            metavar="GLOB",
            help="Operations to take the outputs of.",
        ),
        click.option(
            "--joins",
            multiple=True,
            metavar="KIND",
            default=["concatenate"],
            show_default=True,
            help="Kinds of join: add, multiply, attention, ...; '*' for all of them.",
        ),
        click.option(
            "--for-head",
            is_flag=True,
            help="Take what runs past the joins too: all that a head needs.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def workers(command: Any) -> Any:
    """Adds the options of a save by many workers."""
    options = [
        click.option(
            "--ray",
            is_flag=False,
            flag_value="",
            metavar="[ADDRESS]",
            help="Save by many workers, on Ray: of the cluster at ADDRESS, or else the "
            "one that RAY_ADDRESS names, or this machine.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="With --ray: how many; one for each CPU or GPU, if not given.",
        ),
        click.option(
            "--num-gpus",
            type=click.FloatRange(min=0),
            default=0,
            metavar="N",
            help="With --ray: GPUs of each worker; none, if not given.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


class Pad(click.ParamType):  # type: ignore[type-arg]
    """A whole number, or the longest."""

    name = "N|longest"

    def convert(self, value: Any, param: Any, ctx: Any) -> bool | int:
        """Returns a number, or True for the longest."""
        if value in ("longest", True):
            return True
        return click.IntRange(min=1).convert(value, param, ctx)


class Rows(click.ParamType):  # type: ignore[type-arg]
    """Some rows, `100:200`, as a slice."""

    name = "START:STOP"

    def convert(self, value: Any, param: Any, ctx: Any) -> slice:
        """Returns a slice."""
        start, colon, stop = str(value).partition(":")
        if not colon or not all(part.isdigit() for part in (start, stop) if part):
            self.fail(f"{value!r} are no rows; expected START:STOP, as 100:200.")
        return slice(int(start) if start else None, int(stop) if stop else None)


def less(command: Any) -> Any:
    """Adds the options that say how less is stored."""
    options = [
        click.option(
            "--dtype",
            type=click.Choice(["float16", "bfloat16"]),
            help="What floating numbers are stored as; as they are, by default.",
        ),
        click.option(
            "--reduce",
            type=click.Choice(["mean", "max", "flatten"]),
            help="Store the mean or the largest number of each row, or all flat.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


verbose_option = click.option(
    "--verbose", is_flag=True, help="Show the backend's messages, and tracebacks."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
