"""The commands that need nothing but stores."""

from collections.abc import Sequence
from typing import Any, Literal

import click

import layertap
from layertap.cli import completion, options, printing, store_summary
from layertap.cli.commands import main
from layertap.core.optional import require_keras


@main.command(cls=options.Command, epilog="layertap show layertap-demo/digits.zarr")
@options.store
@options.json
@options.verbose
def show(store: str, as_json: bool, verbose: bool) -> None:
    """Show the values in STORE, or the course of a recording."""
    from layertap.recording.manifest import is_recording

    if is_recording(store):
        recording = layertap.Recording(store)
        printing.show(recording.to_json() if as_json else recording)
        return
    saved = layertap.open(store)
    if as_json:
        printing.show(saved.to_json())
        return
    from layertap.results.statistics import table

    printing.show(saved.plan.table(saved.rows))
    if saved.statistics:
        plan = saved.plan
        made_by = {v.address: v.made_by for v in (*plan.values, *plan.derived)}
        printing.show(table.table(saved.statistics, made_by))
    click.echo(store_summary.summary(saved))


@main.command(
    cls=options.Command,
    epilog="""layertap save layertap-demo/digits.keras layertap-demo/digits.npz \\
  -o half.zarr --dtype float16
layertap diff layertap-demo/digits.zarr half.zarr""",
)
@click.argument("a", type=completion.Folder())
@click.argument("b", type=completion.Folder())
@options.number("--rows", 1, "Only the first rows; by default all.")
@options.several(
    "--pair",
    "NAME NAME",
    "A name in A, and its name in B.",
    nargs=2,
    shell_complete=completion.paths,
)
@options.json
@options.verbose
def diff(
    a: str, b: str, rows: int | None, pair: Any, as_json: bool, verbose: bool
) -> None:
    """Compare the values of two stores, A and B, number by number.

    Exit status 0 if nothing differs beyond rounding, 1 if something does.
    """
    printing.show_verdict(layertap.diff(a, b, rows=rows, pairs=dict(pair)), as_json)


@main.command(cls=options.Command, epilog="layertap clean layertap-demo/digits.zarr")
@options.store
@options.verbose
def clean(store: str, verbose: bool) -> None:
    """Remove files that stopped saves left in STORE. Keep its rows."""
    from layertap.core import tables, text
    from layertap.store.location import exists
    from layertap.store.writing.clean import clean as clean_store

    files, size = clean_store(store)
    what = "nothing"
    if files:
        on_disk = "" if size is None else f", {tables.size(size)}"
        what = f"{text.counted(files, 'file')}{on_disk}"
    rows = ""
    if exists(store):
        rows = f" Its {layertap.open(store).rows:,} rows stay."
    click.echo(f"{store}: removed {what}.{rows}")


@main.command(
    cls=options.Command,
    epilog="layertap export layertap-demo/digits.zarr digits.parquet",
)
@options.store
@click.argument("out", type=click.Path())
@options.several(
    "--address",
    "GLOB",
    "Values to export; by default all.",
    shell_complete=completion.addresses,
)
@options.flag("--overwrite", "Replace OUT.")
@options.quiet
@options.verbose
def export(store: str, out: str, **given: Any) -> None:
    """Export STORE to one file, OUT, for other tools.

    \b
    OUT.parquet      pandas, polars, DuckDB, Spark: one column for each value
    OUT.h5           h5py, MATLAB: one data set for each value
    OUT.npz          NumPy: one array for each value
    OUT.safetensors  PyTorch and others: one tensor for each value
    OUT.tsv          the embedding projector, with OUT.metadata.tsv
    """  # noqa: D301 -- the character itself, for click
    from layertap.core import tables, text
    from layertap.core.address import match

    saved, globs = layertap.open(store), list(given["address"])
    path = layertap.export(
        saved,
        out,
        addresses=globs or None,
        overwrite=given["overwrite"],
        progress=False if given["quiet"] else None,
    )
    known = saved.plan.known
    names = match(globs, known, what="address") if globs else known
    values = text.counted(len(names), "value")
    size = tables.size(path.stat().st_size)
    rest = "" if saved.complete else " The store is not complete."
    click.echo(f"{path}: {saved.rows:,} rows of {values}, {size}.{rest}")


@main.command(
    cls=options.Command,
    epilog="layertap report layertap-demo/digits.zarr -o page.html",
)
@options.store
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PAGE",
    type=click.Path(),
    help="The file, such as page.html.",
)
@options.one(
    "--against", "OTHER", "Another store, to compare with.", type=completion.Folder()
)
@options.one(
    "--inputs",
    "FILE",
    "Arrays that the model read, shown as pictures.",
    type=click.Path(),
)
@options.one("--labels", "COLUMN", "The column of FILE with the labels of the save.")
@options.one("--ids", "COLUMN", "The column of FILE with the ids of the save.")
@click.option(
    "--projection",
    type=click.Choice(["pca", "umap"]),
    default="pca",
    help="Projection of the rows; by default pca.",
)
@options.flag("--overwrite", "Replace PAGE.")
@options.verbose
def report(
    store: str,
    output: str,
    against: str | None,
    inputs: str | None,
    labels: str | None,
    ids: str | None,
    projection: Literal["pca", "umap"],
    overwrite: bool,
    verbose: bool,
) -> None:
    """Make a page about STORE: one HTML file, for any browser.

    STORE may be a recording; the page then has a slider over its steps.
    """
    from layertap.core import tables
    from layertap.recording.manifest import is_recording

    is_one = is_recording(store)
    saved: Any = layertap.Recording(store) if is_one else layertap.open(store)
    # The probe of a recording has no other columns.
    others = [labels, ids, *([] if is_one else saved.not_used)]
    arrays = None if inputs is None else _read_inputs(inputs, others)
    path = layertap.report(
        *(saved, output, against),
        inputs=arrays,
        projection=projection,
        overwrite=overwrite,
    )
    click.echo(f"{path}: {tables.size(path.stat().st_size)}.")


def _read_inputs(source: str, not_used: Sequence[str | None]) -> Any:
    """Returns the inputs in a file of data, without labels, weights and ids."""
    require_keras()
    from layertap.core.address import IDS, LABELS, SAMPLE_WEIGHT
    from layertap.errors import DataError
    from layertap.inputs.columns import Table
    from layertap.inputs.convert import Converter
    from layertap.inputs.data_file import load_data
    from layertap.inputs.images import ImageFolder

    data = load_data(source, None)
    if isinstance(data, ImageFolder):
        raise DataError(
            f"{source} is a folder of images, whose size for the model is unknown. "
            "Expected a file with arrays. Pass the images as the model read them, as "
            "a .npy file."
        )
    if isinstance(data, Table):
        others = {LABELS, SAMPLE_WEIGHT, IDS, *not_used}
        return {name: data[name] for name in data if name not in others}
    return Converter(None).unpack(data).inputs
