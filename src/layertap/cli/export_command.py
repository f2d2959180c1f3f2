"""The command that exports a store."""

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
    from layertap.core import tables
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
    values = tables.counted(len(names), "value")
    size = tables.size(path.stat().st_size)
    rest = "" if saved.complete else " The store is not complete."
    click.echo(f"{path}: {saved.rows:,} rows of {values}, {size}.{rest}")
