"""The command that exports a store."""

from pathlib import Path
from typing import Any

import click

import layertap
from layertap.cli import options
from layertap.cli.commands import main


@main.command(cls=options.Command)
@click.argument("store", type=click.Path())
@click.argument("out", type=click.Path())
@options.several("--address", "GLOB", "Values to export; by default all.")
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
    saved = layertap.open(store)
    path = layertap.export(
        saved,
        out,
        addresses=list(given["address"]) or None,
        overwrite=given["overwrite"],
        progress=False if given["quiet"] else None,
    )
    from layertap.core import tables

    size = tables.size(Path(path).stat().st_size)
    rest = "" if saved.complete else " The store is not complete: repeat the save."
    click.echo(f"{path}: {saved.rows:,} rows, {size}.{rest}")
