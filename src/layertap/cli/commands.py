"""The command line: parses, calls the API, prints.

Nothing heavy is imported before a command needs it, so that `--help` is quick.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from layertap.cli.options import (
    DATA_HELP,
    WRONG,
    Command,
    Commands,
    Pad,
    Resumable,
    Rows,
    fail,
    json_option,
    less,
    line_of,
    model_options,
    selection,
    verbose_option,
    workers,
)
from layertap.cli.quiet_tensorflow import quiet_start


def run() -> None:
    """Runs the command line as a process of its own."""
    if "--verbose" not in sys.argv:
        quiet_start()
    main(prog_name=main.name)


@click.group(
    "layertap", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="layertap")
def main() -> None:
    """Save what flows into every concatenation of a Keras model.

    \b
    layertap plan model.keras                        what would be saved
    layertap save model.keras data.npz -o out.zarr   save it
    layertap show out.zarr                           what was saved
    layertap verify out.zarr --model model.keras --data data.npz
    layertap importance out.zarr model.keras         which branch matters
    layertap diff out.zarr other.zarr                what differs

    Keras' backend is the one that KERAS_BACKEND names. Exit status: 0 success,
    1 checked and found wrong, 2 bad input.
    """  # noqa: D301 -- the character itself, for click


@main.command(cls=Command)
@click.argument("model")
@selection
@less
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    metavar="N",
    help="Rows of data, for the total.",
)
@json_option
@model_options
def plan(model: str, rows: int | None, as_json: bool, **options: Any) -> None:
    """Show what a save of MODEL would take. Nothing is computed."""
    loaded = _load(model, options)
    import layertap

    found = layertap.plan(loaded, **_selected(options))
    _show(found.to_json() if as_json else found.table(rows))


@main.command(cls=Resumable, epilog=DATA_HELP)
@click.argument("model")
@click.argument("data")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="STORE",
    help="Where to: a folder, values.zarr; or s3://bucket/values.zarr, or gs://...",
)
@selection
@less
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows per batch; 32, if not given.",
)
@click.option(
    "--pad",
    type=Pad(),
    help="Pad batches of different sizes: to the longest, or to N.",
)
@click.option("--compression", type=click.Choice(["zstd"]), help="None by default.")
@click.option("--overwrite", is_flag=True, help="Replace the store of another run.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@workers
@model_options
def save(model: str, data: str, output: str, **options: Any) -> None:
    """Save the values of MODEL for DATA. Run again, it goes on where it stopped."""
    chosen = {name: options[name] for name in ("batch_size", "pad", "compression")}
    chosen |= {
        "overwrite": options["overwrite"],
        "progress": False if options["quiet"] else None,
        **_selected(options),
    }
    if options["ray"] is not None:
        saved = _save_on_ray(model, data, output, chosen, options)
    else:
        loaded = _load(model, options)
        import layertap
        from layertap.inputs.data_file import load_data

        source = load_data(data, loaded)
        saved = layertap.save(loaded, source.data, output, ids=source.ids, **chosen)
    click.echo(_state(saved))


@main.command(cls=Command)
@click.argument("store")
@json_option
@verbose_option
def show(store: str, as_json: bool, verbose: bool) -> None:
    """Show what STORE holds."""
    from layertap.results.saved import open as open_saved

    saved = open_saved(store)
    if as_json:
        _show(saved.to_json())
        return
    from layertap.results.statistics import table

    _show(saved.plan.table(saved.rows))
    if saved.statistics:
        _show(table.table(saved.statistics))
    click.echo(_state(saved))


@main.command(cls=Command, epilog=DATA_HELP)
@click.argument("store")
@click.option(
    "--model", metavar="MODEL", help="The model that the values were saved from."
)
@click.option("--data", metavar="DATA", help="The data that they were saved from.")
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=1024,
    metavar="N",
    help="About how many rows to recompute, 1024 if not given; 0 for all.",
)
@json_option
@model_options
def verify(
    store: str, model: str | None, data: str | None, rows: int, **options: Any
) -> None:
    """Recompute rows of STORE and compare.

    Without --model and --data, every file is read and compared with its checksums.
    """
    if (model is None) != (data is None):
        raise click.UsageError("--model and --data go together.")
    from layertap.errors import StoreCorruptError

    try:
        report = _report(store, model, data, rows or None, options)
    except StoreCorruptError as error:
        fail(line_of(error), WRONG)
    _show(report.to_json() if options["as_json"] else report)
    if not report:
        sys.exit(WRONG)


@main.command(cls=Command)
@click.argument("store")
@click.argument("model")
@click.option("--loss", metavar="NAME", help="The one the model was compiled with.")
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="Likewise, with --loss."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="How often each branch is permuted.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="For other permutations."
)
@click.option(
    "--rows",
    type=Rows(),
    help="Rows to measure on, best not trained on; all, if not given.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
@model_options
def importance(
    store: str,
    model: str,
    loss: str | None,
    metrics: tuple[str, ...],
    repeats: int,
    seed: int,
    rows: slice | None,
    **options: Any,
) -> None:
    """Show which branch MODEL leans on, from STORE alone.

    STORE has the branches of MODEL and, if connections run past the join, was saved
    with --for-head. MODEL may also be just the head.
    """
    from layertap.results.saved import open as open_saved

    saved = open_saved(store)
    loaded = _load(model, options)
    from layertap.analysis.importance import head_of
    from layertap.analysis.importance import importance as measured
    from layertap.inputs.data_file import compile_as_saved

    head = head_of(saved, loaded)
    if loss is None:
        compile_as_saved(head, model)
    found = measured(
        saved,
        head,
        loss=loss,
        metrics=list(metrics) or None,
        repeats=repeats,
        seed=seed,
        rows=rows,
        progress=False if options["quiet"] else None,
    )
    _show(found.to_json() if options["as_json"] else found)


@main.command(cls=Command)
@click.argument("a")
@click.argument("b")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many rows to compare, the first ones; all, if not given.",
)
@json_option
@verbose_option
def diff(a: str, b: str, rows: int | None, as_json: bool, verbose: bool) -> None:
    """Compare the values of two stores, A and B, number by number.

    Exit status 0 if nothing differs beyond rounding, 1 if something does.
    """
    from layertap.analysis.diff import diff as compared

    report = compared(a, b, rows=rows)
    _show(report.to_json() if as_json else report)
    if not report:
        sys.exit(WRONG)


@main.command(cls=Command)
@click.argument("folder", default="layertap-demo")
@verbose_option
def demo(folder: str, verbose: bool) -> None:
    """Train a small network on handwritten digits and save its branches.

    Leaves the model, the data and the store in FOLDER, for playing on.
    """
    _need_keras()
    from layertap.cli.demo import run

    def command(*words: str) -> None:
        main.main([*words], standalone_mode=False)

    run(Path(folder), command)


def _report(
    store: str,
    model: str | None,
    data: str | None,
    rows: int | None,
    options: dict[str, Any],
) -> Any:
    from layertap.results.saved import open as open_saved

    saved = open_saved(store)
    if model is None or data is None:
        from layertap.analysis.verify import verify

        return verify(saved)
    loaded = _load(model, options)
    from layertap.analysis.verify import verify
    from layertap.inputs.data_file import load_data

    return verify(saved, loaded, load_data(data, loaded).data, rows=rows)


def _save_on_ray(
    model: str, data: str, output: str, chosen: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Saves by many workers, each of which opens MODEL and DATA by itself."""
    _warn_of_trust(model, options)
    _need_keras()
    from layertap import distributed
    from layertap.distributed import ray_session
    from layertap.distributed.worker import SharedModel

    modules = tuple(options["modules"])
    shared = SharedModel(
        str(Path(model).absolute()), trust=options["trust_model"], modules=modules
    )
    with ray_session.connected(options["ray"]):
        return distributed.save(
            shared,
            data,
            output,
            workers=options["workers"],
            num_gpus=options["num_gpus"],
            **chosen,
        )


def _warn_of_trust(model: str, options: dict[str, Any]) -> None:
    if options["trust_model"]:
        click.echo(
            f"Keras' safe mode is off: code that {model} holds may run.", err=True
        )


def _need_keras() -> None:
    """Raises `BackendMissingError` where Keras or its backend can't be imported."""
    importlib.import_module("layertap.tracing")


def _load(model: str, options: dict[str, Any]) -> Any:
    _need_keras()
    from layertap.inputs.data_file import load_model

    _warn_of_trust(model, options)
    return load_model(model, trust=options["trust_model"], modules=options["modules"])


def _selected(options: dict[str, Any]) -> dict[str, Any]:
    names = ("before", "outputs", "joins", "dtype", "reduce")
    chosen = {name: options[name] or None for name in names}
    return chosen | {"for_head": options["for_head"]}


def _show(what: Any) -> None:
    if isinstance(what, dict):
        click.echo(json.dumps(what, indent=2))
        return
    from rich.console import Console

    from layertap.core import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=tables.WIDTH)
    console.print(what)


def _state(saved: Any) -> str:
    from layertap.core import tables, text

    state = "complete" if saved.complete else "not complete: run the save again"
    on_disk = saved.bytes_on_disk
    size = "" if on_disk is None else f", {tables.size(on_disk)}"
    along = {
        "labels": saved.labels,
        "sample weights": saved.sample_weight,
        "ids": saved.identity["ids"],
    }
    extra = [name for name, found in along.items() if found is not None]
    with_ = ", ".join([*extra[:-2], " and ".join(extra[-2:])])
    told = f", with {with_}" if extra else ""
    overflowed = "".join(
        f"\n{name}: {count:,} numbers too large for {saved.plan.dtype} became infinite."
        for name, count in saved.overflowed.items()
    )
    path = text.printable(saved.path)
    return f"{path}: {saved.rows:,} rows{told}{size}, {state}.{overflowed}"
