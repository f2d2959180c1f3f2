"""The command line: parses, calls the API, prints.

Nothing heavy is imported before a command needs it, so that `--help` is quick.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

WRONG, BAD_INPUT, INTERRUPTED = 1, 2, 130

DATA_HELP = """\b
DATA is one of
  a .npy file               the rows of a model with one input
  a .npz file               one array for each input, by its name; arrays called
                            `labels` and `ids` are saved along
  a folder of images        resized to the model's input; ids are the file names
  package.module:callable   returns anything that layertap.save takes
"""


class _Command(click.Command):
    """A command whose errors are one clear line."""

    def invoke(self, context: click.Context) -> Any:
        verbose = context.params.get("verbose", False)
        with _one_line_errors(verbose):
            return super().invoke(context)


@contextlib.contextmanager
def _one_line_errors(verbose: bool) -> Iterator[None]:
    from layertap.errors import LayertapError, StoreCorruptError

    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except KeyboardInterrupt:
        click.echo(
            "Stopped. Rows that were committed stay; the same command goes on.",
            err=True,
        )
        sys.exit(INTERRUPTED)
    except Exception as error:
        if verbose:
            raise
        known = isinstance(error, LayertapError)
        name = "" if known else f"{type(error).__name__}: "
        click.echo(f"Error: {name}{' '.join(str(error).split())}", err=True)
        sys.exit(WRONG if isinstance(error, StoreCorruptError) else BAD_INPUT)


def run() -> None:
    """Runs the command line as a process of its own.

    The backends' native code writes its start-up messages to file descriptor 2. Unless
    `--verbose` is given that leads nowhere, and Python's own standard error goes on to
    the terminal.
    """
    sys.path.insert(0, str(Path.cwd()))
    if "--verbose" not in sys.argv:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    main()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="layertap")
def main() -> None:
    r"""Save what flows into every concatenation of a Keras model.

    \b
    layertap plan model.keras                        what would be saved
    layertap save model.keras data.npz -o out.zarr   save it
    layertap show out.zarr                           what was saved
    layertap verify out.zarr --model model.keras --data data.npz

    Keras' backend is the one that KERAS_BACKEND names. Exit status: 0 success,
    1 checked and found wrong, 2 bad input.
    """


def _model_options(command: Any) -> Any:
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
        _verbose,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _selection(command: Any) -> Any:
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
    ]
    for option in reversed(options):
        command = option(command)
    return command


_verbose = click.option(
    "--verbose", is_flag=True, help="Show the backend's messages, and tracebacks."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@main.command(cls=_Command)
@click.argument("model")
@_selection
@click.option("--rows", type=int, help="Rows of data, for the total.")
@_json
@_model_options
def plan(model: str, rows: int | None, as_json: bool, **options: Any) -> None:
    """Show what a save of MODEL would take. Nothing is computed."""
    import layertap

    found = layertap.plan(_load(model, options), **_selected(options))
    _show(found.to_json() if as_json else found.table(rows))


@main.command(cls=_Command, epilog=DATA_HELP)
@click.argument("model")
@click.argument("data")
@click.option("-o", "--output", required=True, help="The store: values.zarr")
@_selection
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per batch.")
@click.option("--compression", type=click.Choice(["zstd"]), help="None by default.")
@click.option("--overwrite", is_flag=True, help="Replace the store of another run.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@_model_options
def save(model: str, data: str, output: str, **options: Any) -> None:
    """Save the values of MODEL for DATA. Run again, it goes on where it stopped."""
    import layertap
    from layertap.loading import load_data

    loaded = _load(model, options)
    source = load_data(data, loaded)
    saved = layertap.save(
        loaded,
        source.data,
        output,
        ids=source.ids,
        batch_size=options["batch_size"],
        compression=options["compression"],
        overwrite=options["overwrite"],
        progress=False if options["quiet"] else None,
        **_selected(options),
    )
    click.echo(_state(saved))


@main.command(cls=_Command)
@click.argument("store")
@_json
@_verbose
def show(store: str, as_json: bool, verbose: bool) -> None:
    """Show what STORE holds."""
    from layertap.saved import open as open_saved

    saved = open_saved(store)
    if as_json:
        _show(saved.to_json())
        return
    _show(saved.plan.table(saved.rows))
    click.echo(_state(saved))


@main.command(cls=_Command, epilog=DATA_HELP)
@click.argument("store")
@click.option("--model", help="The model that the values were saved from.")
@click.option("--data", help="The data that they were saved from.")
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="About how many rows to recompute; 0 for all.",
)
@_json
@_model_options
def verify(
    store: str, model: str | None, data: str | None, rows: int, **options: Any
) -> None:
    """Check STORE: recompute rows and compare; without --model, its checksums."""
    if (model is None) != (data is None):
        raise click.UsageError("--model and --data go together.")
    from layertap.saved import open as open_saved

    saved = open_saved(store)
    import layertap

    if model is None:
        report = layertap.verify(saved)
    else:
        from layertap.loading import load_data

        loaded = _load(model, options)
        source = load_data(str(data), loaded)
        report = layertap.verify(saved, loaded, source.data, rows=rows or None)
    _show(report.to_json() if options["as_json"] else report)
    if not report:
        sys.exit(WRONG)


@main.command(cls=_Command)
@click.argument("folder", default="layertap-demo")
@_verbose
def demo(folder: str, verbose: bool) -> None:
    """Train a two-branch network on handwritten digits, then save its branches.

    Leaves the model, the data and the store in FOLDER, for playing on.
    """
    from layertap.demo import run

    def command(*words: str) -> None:
        main.main([*words], standalone_mode=False)

    run(Path(folder), command)


def _load(model: str, options: dict[str, Any]) -> Any:
    from layertap.loading import load_model

    return load_model(model, trust=options["trust_model"], modules=options["modules"])


def _selected(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] or None for name in ("before", "outputs")}


def _show(what: Any) -> None:
    if isinstance(what, dict):
        click.echo(json.dumps(what, indent=2))
        return
    from rich.console import Console

    from layertap import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=tables.WIDTH)
    console.print(what)


def _state(saved: Any) -> str:
    from layertap import tables

    state = "complete" if saved.complete else "not complete: run the save again"
    on_disk = tables.size(saved.bytes_on_disk)
    extra = [name for name in ("labels", "ids") if getattr(saved, name) is not None]
    along = f", with {' and '.join(extra)}" if extra else ""
    return f"{saved.path}: {saved.rows:,} rows{along}, {on_disk}, {state}."
