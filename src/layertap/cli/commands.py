"""The commands: they parse, call the API, and print.

Nothing heavy is imported before a command needs it: `--help` is quick.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import layertap
from layertap.cli import completion, options, printing, store_summary, wording
from layertap.cli.quiet_tensorflow import quiet_start
from layertap.core.optional import import_callable, require_keras

if TYPE_CHECKING:
    from layertap.core.progress import Progress

_SELECTION = ("before", "outputs", "joins", "for_head", "dtype", "reduce")
_TARGETS = ("gradients", "attributions")
_EFFECTS = (*_TARGETS, "baseline", "steps")
_COLUMNS = ("labels", "ids")
_IMAGES = ("preprocess", "skip_bad")
# Options that say more about another one.
_NEEDS = {"baseline": "attributions", "steps": "attributions"}
_NEEDS |= {"workers": "ray", "num_gpus": "ray"}


def run() -> None:
    """Runs the command line in a process of its own."""
    if "--verbose" not in sys.argv:
        quiet_start()
    main(prog_name=main.name)


@click.group(
    "layertap",
    cls=options.Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""layertap plan layertap-demo/digits.keras
layertap show layertap-demo/digits.zarr
layertap verify layertap-demo/digits.zarr""",
)
@click.version_option(package_name="layertap")
def main() -> None:
    """Save the values of the branches of a Keras model, before they are joined.

    KERAS_BACKEND selects the backend of Keras. Exit status: 0 for success, 1 if a
    check found a difference, 2 for bad input, 3 if some values are missing.
    """


@main.command(cls=options.Command, epilog="layertap demo digits")
@click.argument("folder", default="layertap-demo", type=click.Path())
@options.verbose
def demo(folder: str, verbose: bool) -> None:
    """Train a small network on digits and save its branches.

    Writes a model, its data and a store to FOLDER, for the other commands to use.
    """
    require_keras()
    from layertap.cli.demo import run

    run(Path(folder), lambda *words: main.main([*words], standalone_mode=False))


@main.command(
    cls=options.Command,
    epilog="layertap plan layertap-demo/digits.keras --outputs 'conv_*' --reduce avg",
)
@options.model_file
@options.selection
@options.targets
@options.line
@options.number("--rows", 0, "Rows of data, for the total.")
@options.json
@options.model
def plan(model: str, rows: int | None, as_json: bool, **given: Any) -> None:
    """Show the values that a save of MODEL captures. Needs no data."""
    chosen = _chosen(given, *_SELECTION, *_EFFECTS)
    planned = layertap.plan(_load(model, given), **chosen)
    completion.remember(model, planned)
    printing.show(planned.to_json() if as_json else planned.table(rows))


@main.command(
    cls=options.Resumable,
    epilog="layertap save layertap-demo/digits.keras layertap-demo/digits.npz "
    "-o v.zarr",
)
@options.model_file
@click.argument("data", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="STORE",
    type=completion.Folder(),
    help="A folder; or s3://..., gs://...",
)
@options.selection
@options.targets
@options.line
@options.data
@options.number("--batch-size", 1, "Rows per batch; by default 32.")
@click.option(
    "--pad",
    type=options.pad_size,
    metavar="N|longest",
    help="Pad batches whose sizes differ.",
    shell_complete=completion.words("longest"),
)
@click.option("--compression", type=click.Choice(["zstd"]), help="None by default.")
@click.option(
    "--memory",
    type=options.amount,
    metavar="SIZE",
    help="For values not on disk yet; by default 512MiB.",
)
@options.flag("--overwrite", "Replace the store of another run.")
@options.flag("--recompute", "Replace any store, also that of the same run.")
@options.quiet
@options.progress
@options.ray
@options.model
def save(model: str, data: str, output: str, **given: Any) -> None:
    """Save the values of MODEL for DATA. Repeat it to resume a stopped save."""
    names = ("batch_size", "pad", "compression", "memory", "overwrite")
    chosen = _chosen(given, *_SELECTION, *_EFFECTS, *_COLUMNS, *names)
    if given["progress"] and given["quiet"]:
        raise click.UsageError("--quiet and --progress are opposites. Pass one.")
    if given["recompute"]:
        chosen |= {"resume": False, "overwrite": True}
    from layertap.core.progress import open_progress

    with open_progress(given["progress"] or _quiet(given)) as display:
        chosen["progress"] = display
        if given["ray"] is not None:
            saved = _save_on_ray(model, data, output, chosen, given)
        else:
            loaded = _load_with_data(model, data, given, display)
            saved = layertap.save(*loaded, output, **chosen)
    click.echo(store_summary.summary(saved, display.outcome))
    if saved.missing:
        sys.exit(options.PARTIAL)


@main.command(
    cls=options.Command,
    epilog="""layertap verify layertap-demo/digits.zarr \\
  --model layertap-demo/digits.keras --data layertap-demo/digits.npz""",
)
@options.store
@options.one("--model", "MODEL", "The model of the save.", type=click.Path())
@options.one("--data", "DATA", "The data of the save.", type=click.Path())
@options.number("--rows", 0, "About how many; by default 1024; 0 is all.", default=1024)
@options.data
@options.functions
@options.json
@options.model
def verify(
    store: str, model: str | None, data: str | None, rows: int, **given: Any
) -> None:
    """Recompute rows of STORE and compare.

    Without --model and --data, compare every file with its checksums.
    """
    if (model is None) != (data is None):
        raise click.UsageError("--model and --data go together.")
    from layertap.errors import StoreCorruptError

    try:
        saved = layertap.open(store)
        if model is None or data is None:
            report = layertap.verify(saved)
        else:
            targets = saved.plan.gradients_of, saved.plan.attributions_of
            compiled = "loss" in targets
            loaded = _load_with_data(model, data, given, compiled=compiled)
            chosen = _chosen(given, *_COLUMNS, *_TARGETS, "reduce")
            report = layertap.verify(saved, *loaded, rows=rows or None, **chosen)
    except StoreCorruptError as error:
        options.fail(wording.line_of(error), options.WRONG)
    printing.show_verdict(report, given["as_json"])


@main.command(
    cls=options.Command,
    epilog="layertap importance layertap-demo/digits.zarr layertap-demo/digits.keras",
)
@options.store
@options.model_file
@options.one("--loss", "NAME", "A loss; by default that of the compiled MODEL.")
@options.several(
    "--branches",
    "GLOB",
    "Branches, by address or by their layer.",
    shell_complete=completion.branches,
)
@options.several("--metric", "NAME", "A metric, with --loss.")
@options.number("--repeats", 1, "Permutations of each branch; by default 5.", default=5)
@options.number("--seed", 0, "Selects other permutations.", default=0)
@click.option(
    "--rows",
    type=options.row_range,
    metavar="START:STOP",
    help="Rows to measure on; by default all.",
)
@options.quiet
@options.json
@options.model
def importance(store: str, model: str, rows: slice | None, **given: Any) -> None:
    """Show how much MODEL depends on each branch in STORE.

    STORE must have the branches of MODEL. If tensors bypass the join, save it with
    --for-head. MODEL is the complete model or only the head. Use rows that MODEL
    was not trained on.
    """
    saved = layertap.open(store)
    loaded = _load(model, given)
    from layertap.analysis.measured_head import head_of
    from layertap.inputs.model_file import compile_as_saved

    head = head_of(saved, loaded)
    if given["loss"] is None:
        compile_as_saved(head, model)
    report = layertap.importance(
        saved,
        head,
        metrics=list(given["metric"]) or None,
        rows=rows,
        progress=_quiet(given),
        **_chosen(given, "branches", "loss", "repeats", "seed"),
    )
    printing.show(report.to_json() if given["as_json"] else report)


def _save_on_ray(
    model: str, data: str, output: str, chosen: dict[str, Any], given: dict[str, Any]
) -> Any:
    """Saves with many workers, each of which opens MODEL and DATA by itself."""
    _warn_of_trust(model, given)
    chosen["progress"].status("importing Keras and Ray")
    require_keras()
    from layertap import distributed
    from layertap.distributed import ray_session
    from layertap.distributed.worker import SharedModel

    path, trust = str(Path(model).absolute()), given["trust_model"]
    shared = SharedModel(path, trust=trust, modules=given["import"])
    chosen |= _chosen(given, "workers", "num_gpus")
    images = _chosen(given, *_IMAGES)
    source = layertap.images(data, **images) if images else data
    chosen["progress"].status("connecting to Ray")
    with ray_session.connection(given["ray"]):
        return distributed.save(shared, source, output, **chosen)


def _warn_of_trust(model: str, given: dict[str, Any]) -> None:
    if given["trust_model"]:
        click.echo(
            f"Keras' safe mode is off: code that {model} holds may run.", err=True
        )


def _quiet(given: dict[str, Any]) -> bool | None:
    """Returns how to show progress: never, or on terminals."""
    return False if given.get("quiet") else None


def _load(
    model: str,
    given: dict[str, Any],
    display: "Progress | None" = None,
    *,
    compiled: bool = False,
) -> Any:
    from layertap.core.progress import show_progress

    with show_progress(display or _quiet(given)) as shown:
        shown.status("importing Keras")
        require_keras()
        from layertap.inputs.model_file import load_model

        _warn_of_trust(model, given)
        shown.status(f"loading {model}")
        return load_model(
            model,
            trust=given["trust_model"],
            modules=given["import"],
            compiled=compiled or "loss" in map(given.get, _TARGETS),
        )


def _load_with_data(
    model: str,
    data: str,
    given: dict[str, Any],
    display: "Progress | None" = None,
    *,
    compiled: bool = False,
) -> tuple[Any, Any]:
    loaded = _load(model, given, display, compiled=compiled)
    from layertap.inputs.data_file import load_data
    from layertap.tracing.model_structure import input_specs

    if display is not None:
        display.status(f"opening {data}")
    columns = [given[name] for name in _COLUMNS]
    images = _chosen(given, *_IMAGES)
    return loaded, load_data(data, input_specs(loaded), columns, **images)


def _chosen(given: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns the options that the user gave; the API has the same defaults."""
    for name, needed in _NEEDS.items():
        if given.get(name) and given[needed] is None:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} needs --{needed}.")
    chosen = {name: given[name] for name in names if given[name]}
    for name, value in chosen.items():
        # A reduction may also have a name, a target too or a number.
        named = name == "reduce" or name in _TARGETS
        if name == "preprocess" or (named and ":" in value):
            chosen[name] = import_callable(value, f"--{name}")
        elif name in _TARGETS and value.isdecimal():
            chosen[name] = int(value)
    return chosen
